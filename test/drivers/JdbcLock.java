// JDBC. The connection is in autocommit when a lock of session scope is taken, and again when it is released: what
// has not been committed by then is rolled back. `setAutoCommit(false)` begins a transaction.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Duration;
import java.util.Objects;
import java.util.UUID;

class JdbcLock {
    // [recipe]
    static AutoCloseable lock(Connection c, Object key, Duration timeout, boolean shared, String scope) throws SQLException {
        try (var take = c.prepareStatement("CALL pglock.lock(?, ?::interval, ?, ?)")) {
            take.setObject(1, key); take.setString(2, Objects.toString(timeout, null));
            take.setBoolean(3, shared); take.setString(4, scope);
            take.execute();
        }
        return scope.equals("session") ? giveBack(c, "SELECT pglock.release(?, ?)", key, shared) : () -> { };
    }

    static AutoCloseable giveBack(Connection c, String call, Object key, Object value) {
        return () -> {
            try (var release = c.prepareStatement(call)) {
                if (!c.getAutoCommit()) { c.rollback(); c.setAutoCommit(true); }
                release.setObject(1, key); release.setObject(2, value); release.execute();
            } catch (SQLException error) {
                c.close();
                throw error;
            }
        };
    }
    // [end]

    static void example(Connection connection) throws Exception {
        // [example]
        try (var held = lock(connection, "order:42", Duration.ofSeconds(5), false, "session");
                var update = connection.prepareStatement("UPDATE orders SET state = 'paid' WHERE id = 42")) {
            update.executeUpdate();
        }
        // [end]
    }

    // [slot recipe]
    record Slot(int number, AutoCloseable held) implements AutoCloseable {
        @Override public void close() throws Exception { held.close(); }
    }

    static Slot slot(Connection c, Object key, int slots, Duration timeout) throws SQLException {
        try (var take = c.prepareStatement("CALL pglock.slot(?, ?, ?::interval)")) {
            take.setObject(1, key); take.setInt(2, slots); take.setString(3, Objects.toString(timeout, null));
            var answer = take.executeQuery();
            answer.next();
            int number = answer.getInt(1);
            return new Slot(number, giveBack(c, "SELECT pglock.release_slot(?, ?)", key, number));
        }
    }
    // [end]

    static void sessionSlotExample(Connection connection) throws Exception {
        // [slot example]
        try (var slot = slot(connection, "workers", 5, Duration.ofSeconds(5));
                var update = connection.prepareStatement("UPDATE orders SET state = 'paid' WHERE mod(id, 5) + 1 = ?")) {
            update.setInt(1, slot.number());
            update.executeUpdate();
        }
        // [end]
    }

    // a worker: see test/perl/Worker.pm
    static class Failure extends RuntimeException { }

    static final BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    static Connection connection;
    static int prepareThreshold = 0;

    // Does what it is told until the end of the block that it is in: true; or of the input: false.
    static boolean block() throws Exception {
        for (String line; (line = lines.readLine()) != null;) {
            var words = line.split("\t", -1);
            if (words[0].equals("end")) return true;
            try {
                command(words);
            } catch (SQLException error) {
                say("error", error.getSQLState());
            }
        }
        return false;
    }

    static void command(String[] words) throws Exception {
        switch (words[0]) {
            case "lock" -> {
                boolean shared = words[4].equals("shared");
                try (var held = lock(connection, key(words[1], words[2]), milliseconds(words[3]), shared, words[5])) {
                    say("held");
                    block();
                }
                say("released");
            }
            case "slot" -> {
                try (var slot = slot(connection, words[1], Integer.parseInt(words[2]), milliseconds(words[3]))) {
                    say("held", "" + slot.number());
                    block();
                }
                say("released");
            }
            case "example" -> {
                example(connection);
                say("done");
            }
            case "slot_example" -> {
                sessionSlotExample(connection);
                say("done");
            }
            case "transaction" -> {
                begin();
                try {
                    block();
                    connection.commit();
                    say("committed");
                } finally {
                    if (!connection.getAutoCommit()) connection.rollback();
                    connection.setAutoCommit(true);
                }
            }
            case "begin" -> begin();
            case "interrupt" ->
                interrupt(Integer.parseInt(words[2]), Integer.parseInt(words[3]), words[4]);
            case "run" -> say("row", value(words[1]));
            case "fail" -> throw new Failure();
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    // Has the socket time out while a lock is taken, and counts what comes of it.
    static void interrupt(int rounds, int microseconds, String manner) throws Exception {
        int interrupted = 0, left = 0, closed = 0;
        for (; rounds > 0 && !(manner.equals("bare") && left > 0); rounds--) {
            connection.setNetworkTimeout(Runnable::run, 1 + (int) (Math.random() * microseconds / 1000));
            try {
                takeOnce(manner);
            } catch (SQLException error) {
                interrupted++;
                if (connection.isClosed()) {
                    closed++;
                    connect();
                } else {
                    left++;
                }
            }
        }
        connection.setNetworkTimeout(Runnable::run, 0);
        say("interrupted", "" + interrupted, "" + left, "" + closed);
    }

    static void takeOnce(String manner) throws Exception {
        var timeout = Duration.ofSeconds(60);
        if (manner.equals("bare")) {
            value("SELECT pglock.acquire('raced', '60s')");
            connection.setNetworkTimeout(Runnable::run, 0);
            value("SELECT pglock.release_all()");
        } else {
            try (var held = manner.equals("slot")
                    ? slot(connection, "raced", 1, timeout)
                    : lock(connection, "raced", timeout, false, "session")) {
                connection.setNetworkTimeout(Runnable::run, 0);
            }
        }
    }

    // nothing waits for ever
    static Duration milliseconds(String text) {
        return text.isEmpty() ? null : Duration.ofMillis(Long.parseLong(text));
    }

    static Object key(String key, String type) {
        return switch (type) {
            case "integer" -> Long.valueOf(key);
            case "uuid" -> UUID.fromString(key);
            default -> key;
        };
    }

    static void begin() throws SQLException {
        connection.setAutoCommit(false);
        say("begun");
    }

    static String value(String sql) throws SQLException {
        try (var statement = connection.createStatement(); var result = statement.executeQuery(sql)) {
            result.next();
            return result.getString(1);
        }
    }

    static void connect() throws SQLException {
        // the driver has no sockets but those of TCP
        connection = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/"
                + System.getenv("PGDATABASE") + "?prepareThreshold=" + prepareThreshold
                + "&user=" + System.getenv("PGUSER") + "&password=" + System.getenv("PGPASSWORD"));
    }

    static void say(String... words) {
        System.out.println(String.join("\t", words));
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0 && arguments[0].equals("prepared")) prepareThreshold = 1;
        connect();
        say("ready", connection.getMetaData().getDriverVersion());
        for (boolean more = true; more;) {
            try {
                more = block();
            } catch (Failure failure) {
                say("failed");
            }
        }
        connection.close();
    }
}
