<?php
// PHP's PDO. Times are in seconds. PHP has no threads that could renew the lease: the work calls $held, which does so
// when it is due, between transactions.

declare(strict_types=1);

require __DIR__ . '/worker.php';

// [recipe]
function with_lease(PDO $db, string|int $key, callable $work, float $ttl = 30, ?float $timeout = null)
{
    $ask = function (string $call, ...$values) use ($db, $key) {
        $asked = $db->prepare($call);
        $asked->execute([$key, ...$values]);
        return $asked->fetchColumn();
    };
    $now = fn () => hrtime(true) / 1e9;
    $token = $ask('CALL pglock.lease(?, make_interval(secs => ?), make_interval(secs => ?))', $ttl, $timeout);
    $renew = function () use ($ask, $now, $token, $ttl, &$sent, &$until) {
        $sent = $now();
        $until = $ask('SELECT pglock.renew_lease(?, ?)', $token) ? $sent + 0.9 * $ttl : 0;
    };
    $held = function () use ($now, $renew, $ttl, &$sent, &$until) {
        try {
            if ($now() < $until && $now() >= $sent + $ttl / 3) $renew();
        } catch (PDOException) { } // the next renewal may succeed
        return $now() < $until;
    };
    try {
        $renew();
        return $work($token, $held);
    } finally {
        if ($db->inTransaction()) $db->rollBack();
        $ask('SELECT pglock.release_lease(?, ?)', $token);
    }
}
// [end]

function example(PDO $db): void
{
    // [example]
    with_lease($db, 'billing', function (int $token, callable $held) use ($db) {
        $check = $db->prepare('SELECT pglock.check_lease(?, ?)');
        $update = $db->prepare("UPDATE orders SET state = 'paid' WHERE id = ?");
        foreach ([42, 43] as $order) {
            if (!$held()) throw new RuntimeException('the lease could not be renewed');
            $db->beginTransaction();
            $check->execute(['billing', $token]);
            $update->execute([$order]);
            $db->commit();
        }
    });
    // [end]
}

// the driver, for the tests
final class Lost extends Exception {}

$db = new PDO('pgsql:');

$commands = [
    'lease' => function (string $key, string $ttl, string $timeout) use ($db, &$is_held) {
        try {
            with_lease($db, $key, function (int $token, callable $held) use (&$is_held) {
                $is_held = $held;
                say('held', $token);
                block($held);
            }, $ttl / 1000, $timeout === '' ? null : $timeout / 1000);
            say('released');
        } catch (Lost) {
            say('lost');
        }
    },
    'lose' => function () use (&$is_held) {
        while ($is_held()) usleep(10_000);
        throw new Lost();
    },
    'write' => function (string $key, string $token) use ($db) {
        $db->beginTransaction();
        try {
            $db->prepare('SELECT pglock.check_lease(?, ?)')->execute([$key, $token]);
            $db->prepare('INSERT INTO written VALUES (?)')->execute([$key]);
            $db->commit();
        } finally {
            if ($db->inTransaction()) $db->rollBack();
        }
        say('written');
    },
    'example' => function () use ($db) {
        example($db);
        say('done');
    },
];

say('ready', PHP_VERSION);
block();
