# The half of the protocol (see test/perl/Worker.pm) of the Ruby drivers that take leases.
#
# A driver is an object with:
#   version, lease(key, ttl:, timeout:) { |token, held| }, example, write(key, token), sqlstate(error)

require_relative "worker"

class LeaseWorker < Worker
  # Ends the block of a lease that may not be held any more.
  class Lost < Failure; end

  private

  def do_lease(key, ttl, timeout)
    seconds = timeout.to_f / 1000 unless timeout.empty?
    @driver.lease(key, ttl: ttl.to_f / 1000, timeout: seconds) do |token, held|
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
    @driver.write(key, token)
    say("written")
  end
end
