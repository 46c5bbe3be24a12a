package ms_codegeex;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;

/**
 * Calls a class's main, then prints the witness, if it has a token. Usage: Witness TOKEN CLASS, challenge on standard
 * input. What the program itself prints goes to standard error.
 */
public final class Witness {
    public static void main(String[] arguments) throws Throwable {
        String challenge = new String(System.in.readAllBytes(), StandardCharsets.UTF_8).trim();
        byte[] line = ("\nwitness-" + arguments[0] + "-" + challenge + "\n").getBytes(StandardCharsets.UTF_8);
        Values.open();
        System.setOut(System.err);
        Method tests = Class.forName(arguments[1]).getMethod("main", String[].class);
        tests.setAccessible(true); // the class may not be public
        try {
            tests.invoke(null, (Object) new String[0]);
        } catch (InvocationTargetException error) {
            throw error.getCause();
        }
        System.out.flush();
        if (!arguments[0].isEmpty()) {
            Values.write(line);
        }
    }
}
