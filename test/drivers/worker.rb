# The Ruby drivers' half of the workers' protocol (see test/perl/Worker.pm).
#
# A driver is an object with:
#   version, lock(key, **options) { }, example, transaction { }, begin, trap(key), run(sql), sqlstate(error),
#   reconnect: if its connection has been closed

require "timeout"

class Worker
  # Raised in the innermost block by the command `fail`; it ends them all.
  class Failure < RuntimeError; end

  # What a signal handler raises.
  class Interrupted < StandardError; end

  def initialize(driver)
    @driver = driver
  end

  def main
    $stdout.sync = true
    say("ready", @driver.version)
    begin
      block
    rescue Failure
      say("failed")
      retry
    end
  end

  private

  # Does what it is told until the end of the block that it is in.
  def block
    while (line = $stdin.gets)
      command, *arguments = line.chomp.split("\t", -1)
      return if command == "end"
      begin
        send("do_#{command}", *arguments)
      rescue Failure, Interrupted
        raise
      rescue StandardError => error
        say("error", sqlstate(error))
      end
    end
  end

  def sqlstate(error)
    @driver.sqlstate(error)
  end

  def do_lock(key, type, timeout, shared, scope)
    options = { shared: shared == "shared", scope: scope }
    options[:timeout] = timeout.to_f / 1000 unless timeout.empty?
    @driver.lock(type == "integer" ? key.to_i : key, **options) do
      say("held")
      block
    end
    say("released")
  end

  def do_example
    @driver.example
    say("done")
  end

  def do_transaction
    @driver.transaction do
      say("begun")
      block
    end
    say("committed")
  end

  def do_begin
    @driver.begin
    say("begun")
  end

  def do_trap(key)
    say("trapped", @driver.trap(key))
  end

  def do_give_up(key)
    trap("USR2") { raise Interrupted }
    @driver.lock(key) { block }
  rescue Interrupted
    @driver.reconnect
    say("gave up")
  end

  # Interrupts it by Timeout, many times.
  def do_interrupt(_how, rounds, microseconds, manner)
    bare = manner == "bare"
    counts = { interrupted: 0, left: 0, closed: 0 }
    rounds.to_i.times do
      before = session
      begin
        Timeout.timeout(rand * microseconds.to_i / 1e6) { bare ? take_bare : @driver.lock("raced", timeout: 60) { } }
      rescue Timeout::Error
        counts[:interrupted] += 1
        @driver.reconnect
        counts[:left] += locks
        counts[:closed] += 1 if session != before
        break if bare && counts[:left] > 0
      end
    end
    @driver.run("SELECT pglock.release_all()") if bare
    say("interrupted", *counts.values)
  end

  def take_bare
    @driver.run("SELECT pglock.acquire('raced', timeout => '60s')")
    @driver.run("SELECT pglock.release_all()")
  end

  def session
    @driver.run("SELECT pg_backend_pid()")
  end

  def locks
    @driver.run("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'").to_i
  end

  def do_run(sql)
    say("row", @driver.run(sql))
  end

  def do_fail
    raise Failure, "told to fail"
  end

  def say(*words)
    puts(words.join("\t"))
  end
end
