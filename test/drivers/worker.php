<?php
// The PHP drivers' half of the workers' protocol (see test/perl/Worker.pm). $commands has a function for each of them.

declare(strict_types=1);

function say(...$words): void
{
    echo implode("\t", $words), "\n";
}

// Does what it is told until the end of the block that it is in: true; or of the input: false. It calls $idle, if that
// is given, again and again until it is told something.
function block(?callable $idle = null): bool
{
    global $commands;

    while (($line = next_line($idle)) !== false) {
        $values = explode("\t", rtrim($line, "\n"));
        $command = array_shift($values);
        if ($command === 'end') return true;
        try {
            $commands[$command](...$values);
        } catch (PDOException $error) {
            say('error', $error->errorInfo[0]);
        }
    }
    return false;
}

function next_line(?callable $idle): string|false
{
    while ($idle && !is_readable_soon(STDIN)) $idle();
    return fgets(STDIN);
}

function is_readable_soon($stream): bool
{
    [$readable, $writable, $exceptional] = [[$stream], [], []];
    return stream_select($readable, $writable, $exceptional, 0, 10_000) === 1;
}
