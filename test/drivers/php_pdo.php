<?php
// PHP's PDO. A connection is in autocommit, and beginTransaction() begins. Send a boolean as an integer: false would
// be sent as an empty string. A persistent connection keeps what it holds when the program ends.

declare(strict_types=1);

require __DIR__ . '/worker.php';

// [recipe]
function with_lock(PDO $db, string|int $key, callable $work, ?float $timeout = null, bool $shared = false, string $scope = 'session')
{
    $take = $release = null;
    // a signal handler that throws does so when the call has ended: ask that
    $has_run = fn (?PDOStatement $statement) => $statement?->errorCode() === PDO::ERR_NONE;
    $give_back = function () use ($db, $key, $shared, $scope, $has_run, &$take, &$release) {
        if ($scope !== 'session' || !$has_run($take) || $has_run($release)) return;
        try {
            if ($db->inTransaction()) $db->rollBack();
            $release = $db->prepare('SELECT pglock.release(?, ?)');
            $release->execute([$key, (int) $shared]);
        } catch (Throwable $error) {
            // a PDO is closed when nothing refers to it, but the server can close it at once
            try { $db->exec('SELECT pg_terminate_backend(pg_backend_pid())'); } catch (PDOException) { }
            throw $error;
        }
    };
    try {
        try {
            $take = $db->prepare('CALL pglock.lock(?, make_interval(secs => ?), ?, ?)');
            $take->execute([$key, $timeout, (int) $shared, $scope]);
            return $work();
        } finally {
            $give_back();
        }
    } finally {
        $give_back(); // a signal handler may have thrown before the first had begun
    }
}
// [end]

function example(PDO $db): void
{
    // [example]
    with_lock($db, 'order:42', function () use ($db) {
        $db->exec("UPDATE orders SET state = 'paid' WHERE id = 42");
    }, timeout: 5);
    // [end]
}

// the driver, for the tests
final class Failure extends Exception {}

// what a signal handler throws
final class Interrupted extends Exception {}

const LOCKS = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";

function connect(): PDO
{
    global $argv;
    return new PDO('pgsql:', options: [PDO::PGSQL_ATTR_DISABLE_PREPARES => !in_array('prepared', $argv)]);
}

$db = connect();

$commands = [
    'lock' => function (string $key, string $type, string $timeout, string $shared, string $scope) use ($db) {
        with_lock($db, $type === 'integer' ? (int) $key : $key, function () {
            say('held');
            block();
        }, $timeout === '' ? null : $timeout / 1000, $shared === 'shared', $scope);
        say('released');
    },
    'example' => function () use ($db) {
        example($db);
        say('done');
    },
    'transaction' => function () use ($db) {
        $db->beginTransaction();
        try {
            say('begun');
            block();
            $db->commit();
        } catch (Throwable $error) {
            if ($db->inTransaction()) $db->rollBack();
            throw $error;
        }
        say('committed');
    },
    'begin' => function () use ($db) {
        $db->exec('BEGIN');
        say('begun');
    },
    'trap' => function (string $key) use ($db) {
        try {
            $db->prepare('SELECT pglock.acquire(?, shared => ?)')->execute([$key, false]);
        } catch (PDOException $error) {
            say('trapped', $error->errorInfo[0]);
        }
    },
    'give_up' => function (string $key) use ($db) {
        try {
            with_lock($db, $key, fn () => block());
        } catch (Interrupted) {
            say('gave up');
        }
    },
    'interrupt' => fn (string $how, string $rounds, string $microseconds, string $manner) =>
        say('interrupted', ...interrupt((int) $rounds, (int) $microseconds, $manner === 'bare')),
    'run' => fn (string $sql) => say('row', $db->query($sql)->fetchColumn()),
    'fail' => fn () => throw new Failure(),
];

// Has another process signal while it takes the lock, and counts what comes of it.
function interrupt(int $rounds, int $microseconds, bool $bare): array
{
    $interrupted = $left = $closed = 0;
    $db = connect();
    for (; $rounds > 0 && !($bare && $left); $rounds--) {
        try {
            if (pcntl_fork() === 0) {
                usleep(random_int(0, $microseconds));
                posix_kill(posix_getppid(), SIGUSR2);
                posix_kill(getmypid(), SIGKILL); // the connection is not the child's to close
            }
            if ($bare) $db->query("SELECT pglock.acquire('raced', timeout => '60s')");
            else with_lock($db, 'raced', fn () => null, 60);
            pcntl_wait($status);
        } catch (Interrupted) {
            pcntl_wait($status);
            $interrupted++;
            try {
                $left += (int) $db->query(LOCKS)->fetchColumn();
            } catch (PDOException) {
                $closed++;
                $db = connect();
            }
        }
        $db->query('SELECT pglock.release_all()');
    }
    return [$interrupted, $left, $closed];
}

pcntl_async_signals(true);
pcntl_signal(SIGUSR2, fn () => throw new Interrupted());
say('ready', PHP_VERSION);
for ($more = true; $more;) {
    try {
        $more = block();
    } catch (Failure) {
        say('failed');
    }
}
