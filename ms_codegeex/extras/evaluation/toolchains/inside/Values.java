package ms_codegeex;

import java.io.ByteArrayOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** Writes a value's frame, as judging/values.py describes it. */
public final class Values {
    private static FileOutputStream out;

    static void open() {
        out = new FileOutputStream(FileDescriptor.out);
    }

    static synchronized void write(byte[] bytes) throws IOException {
        out.write(bytes);
    }

    /** A number of its own is compared by its value; one in a list by its class, too. */
    public static void say(Object value) {
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        if (value instanceof Long || value instanceof Short || value instanceof Byte) {
            add(text, "i" + value + ";");
        } else if (value instanceof Float) {
            add(text, "d" + value + ";");
        } else {
            put(text, value);
        }
        ByteArrayOutputStream frame = new ByteArrayOutputStream();
        add(frame, text.size() + ":");
        try {
            text.writeTo(frame);
            write(frame.toByteArray());
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    private static void add(ByteArrayOutputStream text, String part) {
        byte[] bytes = part.getBytes(StandardCharsets.UTF_8);
        text.write(bytes, 0, bytes.length);
    }

    private static void string(ByteArrayOutputStream text, String value) {
        add(text, "s" + value.getBytes(StandardCharsets.UTF_8).length + ":" + value);
    }

    private static void all(ByteArrayOutputStream text, String sign, Collection<?> values) {
        Object[] items = values.toArray();
        add(text, sign + items.length + ":");
        for (Object item : items) {
            put(text, item);
        }
    }

    private static void put(ByteArrayOutputStream text, Object value) {
        if (value == null) {
            add(text, "n");
        } else if (value instanceof Boolean) {
            add(text, (Boolean) value ? "t" : "f");
        } else if (value instanceof Integer) {
            add(text, "i" + value + ";");
        } else if (value instanceof Double) {
            add(text, "d" + value + ";");
        } else if (value instanceof String || value instanceof Character) {
            string(text, value.toString());
        } else if (value instanceof List) {
            all(text, "[", (List<?>) value);
        } else if (value instanceof Set) {
            all(text, "<", (Set<?>) value);
        } else if (value instanceof Optional) {
            all(text, "(", ((Optional<?>) value).isPresent() ? List.of(((Optional<?>) value).get()) : List.of());
        } else if (value instanceof Map) {
            Map<?, ?> map = (Map<?, ?>) value;
            Object[] keys = map.keySet().toArray();
            add(text, "{" + keys.length + ":");
            for (Object key : keys) {
                put(text, key);
                put(text, map.get(key));
            }
        } else {
            add(text, "o0:");
        }
    }
}
