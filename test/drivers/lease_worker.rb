# The half of the protocol (see test/perl/Worker.pm) of the Ruby drivers that take leases.

require_relative "lease"
require_relative "worker"

class LeaseWorker < Worker
  # Ends the block of a lease that may not be held any more.
  class Lost < Failure; end

  # All are functions but `version`; `insert` is given what the block of `write` is, and writes into the table `written`.
  Driver = Struct.new(:version, :ask, :write, :pay, :insert, :sqlstate, keyword_init: true)

  def initialize(**driver)
    super(Driver.new(**driver))
  end

  private

  def sqlstate(error)
    @driver.sqlstate.call(error) or raise error
  end

  def do_lease(key, ttl, timeout)
    seconds = timeout.to_f / 1000 unless timeout.empty?
    with_lease(@driver.ask, key, ttl: ttl.to_f / 1000, timeout: seconds) do |token, held|
      @held = held
      say("held", token)
      block
    end
    say("released")
  rescue Lost
    say("lost")
  end

  def do_lose
    sleep(0.01) while @held.call
    raise Lost
  end

  def do_write(key, token)
    @driver.write.call(key, token) { |conn| @driver.insert.call(conn, key) }
    say("written")
  end

  def do_example
    example(@driver.ask, @driver.pay)
    say("done")
  end
end
