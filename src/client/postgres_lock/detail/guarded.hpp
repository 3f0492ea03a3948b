// guarded.hpp: what guards are made of.
#pragma once

#include <exception>
#include <utility>

namespace pglock::detail
{
/// Owns a hold by a pointer of some kind, and ends it with itself. It moves, and does not copy.
template <typename Pointer> class guarded
{
  public:
	guarded() = default;

	explicit guarded(Pointer held) noexcept : held_(std::move(held))
	{
	}

	guarded(guarded &&) noexcept = default;

	/// First ends what it owns itself.
	guarded &
	operator=(guarded &&other) noexcept
	{
		if (this != &other)
		{
			end();
			held_ = std::move(other.held_);
			exceptions_ = other.exceptions_;
		}
		return *this;
	}

	guarded(const guarded &) = delete;
	guarded &operator=(const guarded &) = delete;

	~guarded()
	{
		end();
	}

	/// Null if it has been moved from.
	[[nodiscard]] const Pointer &
	get() const noexcept
	{
		return held_;
	}

  private:
	/// By an error, if there are more exceptions under way than when it was made.
	void
	end() noexcept
	{
		if (held_)
			held_->end(std::uncaught_exceptions() > exceptions_);
	}

	Pointer held_{};
	int exceptions_ = std::uncaught_exceptions();
};
} // namespace pglock::detail
