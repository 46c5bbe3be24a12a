// A program like those that are judged: the compiler's classes that it needs are archived.
import java.util.*;
import java.util.stream.*;

class Solution {
    public List<Integer> doubled(List<Integer> numbers) {
        return numbers.stream().map(n -> n * 2).collect(Collectors.toList());
    }
}

public class Main {
    public static void main(String[] args) {
        Map<String, Integer> counts = new HashMap<>();
        counts.merge("a" + args.length, 1, Integer::sum);
        if (!new Solution().doubled(new ArrayList<>(Arrays.asList(1, 2))).equals(Arrays.asList(2, 4))) {
            throw new AssertionError();
        }
    }
}
