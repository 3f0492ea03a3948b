// What becomes of a lock whose connection goes back to HikariCP: see pools.py. The argument is the URL.

import com.zaxxer.hikari.HikariDataSource;

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Map;

class Pools {
    static final Map<String, String> TAKE = Map.of(
            "session", "SELECT pglock.acquire('pooled')",
            "transaction", "SELECT pglock.acquire('pooled', scope => 'transaction')");

    static void report(String url, String scope) throws SQLException {
        try (Connection connection = DriverManager.getConnection(url);
                var result = connection.createStatement().executeQuery("SELECT pglock.is_free('pooled')")) {
            result.next();
            System.out.println("HikariCP|" + scope + "|" + (result.getBoolean(1) ? "free" : "held"));
        }
    }

    public static void main(String[] arguments) throws SQLException {
        String url = arguments[0];

        for (String scope : TAKE.keySet()) {
            try (HikariDataSource pool = new HikariDataSource()) {
                pool.setJdbcUrl(url);
                pool.setMaximumPoolSize(1);
                pool.setAutoCommit(false);
                try (Connection connection = pool.getConnection()) {
                    connection.createStatement().execute(TAKE.get(scope));
                }
                report(url, scope);
            }
        }
    }
}
