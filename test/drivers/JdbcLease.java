// JDBC. The data source gives connections in autocommit, as a pool or, as here, the driver's own does.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.SQLException;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import javax.sql.DataSource;
import org.postgresql.ds.PGSimpleDataSource;

class JdbcLease {
    // [recipe]
    static class Lease implements AutoCloseable {
        private final DataSource source; private final String key; private final long ttl; final long token;
        private final ScheduledExecutorService keeper = Executors.newSingleThreadScheduledExecutor();
        private volatile long until;

        Lease(DataSource source, String key, Duration ttl, Duration timeout) throws SQLException {
            this.source = source; this.key = key; this.ttl = ttl.toNanos();
            token = (long) ask("CALL pglock.lease(?, ?::interval, ?::interval)",
                    key, ttl.toString(), Objects.toString(timeout, null));
            renew();
            keeper.scheduleAtFixedRate(() -> {
                try { renew(); } catch (SQLException error) { } // the next renewal may succeed
            }, this.ttl / 3, this.ttl / 3, TimeUnit.NANOSECONDS);
        }

        private void renew() throws SQLException {
            long sent = System.nanoTime();
            until = (boolean) ask("SELECT pglock.renew_lease(?, ?)", key, token) ? sent + ttl / 10 * 9 : sent;
        }

        boolean held() { return System.nanoTime() - until < 0; }

        @Override public void close() throws SQLException {
            keeper.shutdownNow();
            ask("SELECT pglock.release_lease(?, ?)", key, token);
        }

        private Object ask(String call, Object... values) throws SQLException {
            try (var connection = source.getConnection(); var statement = connection.prepareStatement(call)) {
                for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
                var rows = statement.executeQuery();
                rows.next();
                return rows.getObject(1);
            }
        }
    }
    // [end]

    static void example(DataSource source) throws Exception {
        // [example]
        try (var lease = new Lease(source, "billing", Duration.ofSeconds(30), null);
                var connection = source.getConnection();
                var check = connection.prepareStatement("SELECT pglock.check_lease('billing', ?)");
                var update = connection.prepareStatement("UPDATE orders SET state = 'paid' WHERE id = ?")) {
            connection.setAutoCommit(false);
            for (int order : new int[] {42, 43}) {
                if (!lease.held()) throw new TimeoutException("the lease could not be renewed");
                check.setLong(1, lease.token);
                check.execute();
                update.setInt(1, order);
                update.executeUpdate();
                connection.commit();
            }
        }
        // [end]
    }

    // a worker: see test/perl/Worker.pm
    static final BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    static final PGSimpleDataSource source = new PGSimpleDataSource();

    // Does what it is told until the end of the block that it is in. Returns the last command.
    static String block(Lease lease) throws Exception {
        for (String line; (line = lines.readLine()) != null;) {
            var words = line.split("\t", -1);
            if (words[0].equals("end")) return words[0];
            try {
                if (words[0].equals("lose")) {
                    while (lease.held()) Thread.sleep(10);
                    return words[0];
                }
                command(words);
            } catch (SQLException error) {
                say("error", error.getSQLState());
            }
        }
        return "";
    }

    static void command(String[] words) throws Exception {
        switch (words[0]) {
            case "lease" -> {
                String last;
                try (var lease = new Lease(source, words[1], duration(words[2]), duration(words[3]))) {
                    say("held", "" + lease.token);
                    last = block(lease);
                }
                say(last.equals("lose") ? "lost" : "released");
            }
            case "write" -> {
                write(words[1], Long.parseLong(words[2]));
                say("written");
            }
            case "example" -> {
                example(source);
                say("done");
            }
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    static void write(String key, long token) throws SQLException {
        try (var connection = source.getConnection();
                var check = connection.prepareStatement("SELECT pglock.check_lease(?, ?)");
                var insert = connection.prepareStatement("INSERT INTO written VALUES (?)")) {
            connection.setAutoCommit(false);
            check.setString(1, key);
            check.setLong(2, token);
            check.execute();
            insert.setString(1, key);
            insert.executeUpdate();
            connection.commit();
        }
    }

    static Duration duration(String milliseconds) {
        return milliseconds.isEmpty() ? null : Duration.ofMillis(Long.parseLong(milliseconds));
    }

    static void say(String... words) {
        System.out.println(String.join("\t", words));
    }

    public static void main(String[] arguments) throws Exception {
        // the driver has no sockets but those of TCP
        source.setServerNames(new String[] {"127.0.0.1"});
        source.setPortNumbers(new int[] {Integer.parseInt(System.getenv("PGPORT"))});
        source.setDatabaseName(System.getenv("PGDATABASE"));
        source.setUser(System.getenv("PGUSER"));
        source.setPassword(System.getenv("PGPASSWORD"));
        say("ready", org.postgresql.Driver.getVersion());
        block(null);
    }
}
