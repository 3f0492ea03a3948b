#include "measure.hpp"

#include <atomic>
#include <exception>
#include <latch>
#include <list>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace
{
using clock_type = std::chrono::steady_clock;
using milliseconds = std::chrono::duration<double, std::milli>;

/// What is measured has at least so many cycles.
constexpr std::int64_t least_cycles = 10;

/// What the clients of a run share.
struct run_state
{
	std::atomic<bool> is_measuring = false;
	std::atomic<bool> is_over = false;
	std::atomic<int> holders = 0;
	std::atomic<std::int64_t> overlaps = 0;
};

class run_witness final : public witness
{
  public:
	run_witness(run_state &state, bool expects_exclusion)
		: state_(state), expects_exclusion_(expects_exclusion)
	{
	}

	void
	begin()
	{
		begun_ = clock_type::now();
	}

	void
	acquired() override
	{
		milliseconds wait = clock_type::now() - begun_;

		if (state_.is_measuring.load(std::memory_order_relaxed))
			waits.push_back(wait.count());
		if (expects_exclusion_ && state_.holders.fetch_add(1) != 0)
			state_.overlaps++;
	}

	void
	releasing() override
	{
		if (expects_exclusion_)
			state_.holders--;
	}

	std::vector<double> waits;

  private:
	run_state &state_;
	bool expects_exclusion_;
	clock_type::time_point begun_;
};

/// For a cycle that does not count.
class no_witness final : public witness
{
  public:
	void
	acquired() override
	{
	}

	void
	releasing() override
	{
	}
};

/// A thread with a client. Counters have cache lines of their own.
class alignas(64) contender
{
  public:
	contender(run_state &state, const task &task, int number)
		: state_(state), task_(task), own_key_(shared_key + ":" + std::to_string(number)),
		  key_(task.shared_key ? shared_key : own_key_), witness_(state, task.shared_key)
	{
	}

	void
	run(const std::function<std::unique_ptr<client>()> &connect, std::latch &connected,
		std::latch &start)
	{
		std::unique_ptr<client> client;

		attempt([&] {
			no_witness nobody;

			// what is prepared and looked up at first use
			client = connect();
			client->cycle(own_key_, task_.work, nobody);
		});
		connected.count_down();
		start.wait();
		attempt([&] {
			while (!state_.is_over.load(std::memory_order_relaxed))
				cycle(*client);
		});
	}

	[[nodiscard]] std::int64_t
	cycles() const noexcept
	{
		return cycles_.load(std::memory_order_relaxed);
	}

	[[nodiscard]] const std::vector<double> &
	waits() const noexcept
	{
		return witness_.waits;
	}

	void
	rethrow() const
	{
		if (failure_)
			std::rethrow_exception(failure_);
	}

  private:
	void
	attempt(const std::function<void()> &action)
	{
		if (failure_)
			return;
		try
		{
			action();
		}
		catch (...)
		{
			failure_ = std::current_exception();
			state_.is_over = true;
		}
	}

	void
	cycle(client &client)
	{
		witness_.begin();
		client.cycle(key_, task_.work, witness_);
		cycles_.store(cycles() + 1, std::memory_order_relaxed);
	}

	run_state &state_;
	task task_;
	std::string own_key_;
	std::string key_;
	run_witness witness_;
	std::atomic<std::int64_t> cycles_ = 0;
	std::exception_ptr failure_;
};

std::int64_t
all_cycles(const std::list<contender> &contenders)
{
	std::int64_t sum = 0;

	for (const contender &each : contenders)
		sum += each.cycles();
	return sum;
}

/// Cycles in a second, beginning now.
double
rate(run_state &state, const std::list<contender> &contenders, std::chrono::duration<double> time)
{
	auto begin = clock_type::now();
	std::int64_t before = all_cycles(contenders);
	std::chrono::duration<double> passed{};
	std::int64_t done = 0;

	state.is_measuring = true;
	std::this_thread::sleep_for(time);
	while ((done = all_cycles(contenders) - before) < least_cycles && !state.is_over &&
		   clock_type::now() - begin < std::chrono::minutes(1))
		std::this_thread::sleep_for(std::chrono::milliseconds(1));
	passed = clock_type::now() - begin;
	state.is_measuring = false;
	return static_cast<double>(done) / passed.count();
}
} // namespace

figures
measure(const std::function<std::unique_ptr<client>()> &connect, const task &task,
		std::chrono::duration<double> time)
{
	run_state state;
	std::list<contender> contenders;
	std::list<std::jthread> threads;
	std::latch connected(task.clients);
	std::latch start(1);
	figures measured;

	for (int i = 0; i < task.clients; i++)
	{
		contender &each = contenders.emplace_back(state, task, i);

		threads.emplace_back([&] { each.run(connect, connected, start); });
	}
	connected.wait();
	start.count_down();
	std::this_thread::sleep_for(time / 10);
	measured.rate = rate(state, contenders, time);
	state.is_over = true;
	threads.clear();

	for (const contender &each : contenders)
	{
		each.rethrow();
		measured.waits.insert(measured.waits.end(), each.waits().begin(), each.waits().end());
	}
	if (!(measured.rate > 0))
		throw std::runtime_error("nothing was done in a minute");
	measured.cycles = all_cycles(contenders);
	measured.overlaps = state.overlaps;
	return measured;
}
