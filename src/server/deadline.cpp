/*
 * deadline.cpp: ending a wait at a point in time.
 *
 * The lock manager's wait ends with the lock or with an error, so a deadline has to cancel it.
 * PostgreSQL's lock_timeout is not used for that: it belongs to the user, and its signal can't be
 * told from a user's cancel that comes at the same moment, which would be lost.
 *
 * Instead the timer's handler asks for a cancel by the same flag as everybody, without the signal,
 * and while it is armed the handler of SIGINT is wrapped to note whether anybody else asked: every
 * cancel, statement_timeout and lock_timeout arrives as SIGINT. (A recovery conflict on a standby
 * arrives by another way, but is sent again until it has been heard.)
 */
#include "deadline.hpp"

#include <csignal>

namespace pglock::deadline
{
namespace
{
bool armed = false;
volatile sig_atomic_t passed = false;
volatile sig_atomic_t cancelled_by_others = false; /* since arm(), heard or not */
volatile sig_atomic_t pending_is_ours = false;	   /* what is still to be heard is ours alone */
struct sigaction wrapped;

void
note_cancel(int signal, siginfo_t *info, void *context)
{
	cancelled_by_others = true;
	pending_is_ours = false;
	if (wrapped.sa_flags & SA_SIGINFO)
		wrapped.sa_sigaction(signal, info, context);
	else if (wrapped.sa_handler != SIG_IGN && wrapped.sa_handler != SIG_DFL)
		wrapped.sa_handler(signal);
}

void
on_timer()
{
	if (QueryCancelPending)
		cancelled_by_others = true;
	passed = true;
	pending_is_ours = !QueryCancelPending;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

TimeoutId
timer()
{
	static TimeoutId id = MAX_TIMEOUTS;

	/* per backend: a registration made in the postmaster would not reach its children */
	if (id == MAX_TIMEOUTS)
		id = RegisterTimeout(USER_TIMEOUT, on_timer);
	return id;
}
} // namespace

void
arm(TimestampTz when)
{
	struct sigaction wrapper = {};
	TimeoutId id;

	if (when == never)
		return;
	id = timer();
	passed = false;
	pending_is_ours = false;
	sigaction(SIGINT, nullptr, &wrapped);
	wrapper = wrapped;
	wrapper.sa_flags |= SA_SIGINFO;
	wrapper.sa_sigaction = note_cancel;
	sigaction(SIGINT, &wrapper, nullptr);
	cancelled_by_others = QueryCancelPending;
	armed = true;
	enable_timeout_at(id, when);
}

bool
disarm()
{
	sigset_t sigint, before;
	bool ours;

	if (!armed)
		return false;
	armed = false;
	disable_timeout(timer(), false);

	/* no cancel may come between looking whether there was one and dropping ours */
	sigemptyset(&sigint);
	sigaddset(&sigint, SIGINT);
	sigprocmask(SIG_BLOCK, &sigint, &before);
	if (pending_is_ours)
		QueryCancelPending = false;
	ours = passed && (!cancelled_by_others || QueryCancelPending);
	sigaction(SIGINT, &wrapped, nullptr);
	sigprocmask(SIG_SETMASK, &before, nullptr);
	return ours;
}
} // namespace pglock::deadline
