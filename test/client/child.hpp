// child.hpp: what becomes of things in a process that is forked.
#pragma once

#include <functional>

#include <sys/wait.h>
#include <unistd.h>

/// Is it true in a process that is forked from this one?
[[nodiscard]] inline bool
in_child(const std::function<bool()> &condition)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0)
		_exit(condition() ? 0 : 1);
	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
