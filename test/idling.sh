# shellcheck shell=bash
# How CPUs of a virtual machine idle: to be sourced by what measures.
#
# One that is put to sleep as soon as it has nothing to do may take longer to wake than a call takes. The kernel can let
# it poll first, in machines whose driver for idling is haltpoll, and does so by default for 0.2 ms.

idling_driver=/sys/devices/system/cpu/cpuidle/current_driver
idling_poll=/sys/module/haltpoll/parameters/guest_halt_poll_ns

# How many microseconds idle CPUs poll. Fails if it is not for this machine to say.
polled_us() {
	[[ -r $idling_poll && $(cat "$idling_driver" 2>/dev/null) == haltpoll ]] || return 1
	say $(($(cat "$idling_poll") / 1000))
}

warn_of_idling() {
	local us
	us=$(polled_us) && ((us < 200)) || return 0
	cat >&2 <<-END
		postgres_lock: idle CPUs of this machine sleep after $us us, so much of what is measured is how long they take to wake.
		The kernel's default is better for it: echo 200000 > $idling_poll

	END
}
