// plugin_host local|global ONE TWO: loads two shared objects that take the same lock on one
// connection. Succeeds if only one of them gets it.
#include <cstdio>
#include <string>

#include <dlfcn.h>
#include <libpq-fe.h>

int
main(int count, char **arguments)
{
	bool (*take[2])(PGconn *);
	void (*drop[2])();

	if (count != 4)
		return 2;
	for (int i = 0; i < 2; i++)
	{
		void *plugin =
			dlopen(arguments[i + 2],
				   RTLD_NOW | (arguments[1] == std::string("global") ? RTLD_GLOBAL : RTLD_LOCAL));

		if (plugin == nullptr)
		{
			std::puts(dlerror());
			return 2;
		}
		take[i] = reinterpret_cast<bool (*)(PGconn *)>(dlsym(plugin, "take"));
		drop[i] = reinterpret_cast<void (*)()>(dlsym(plugin, "drop"));
	}

	PGconn *connection = PQconnectdb("");
	bool succeeded = take[0](connection) && !take[1](connection);

	drop[0]();
	succeeded = succeeded && take[1](connection) && !take[0](connection);
	drop[1]();
	PQfinish(connection);
	return succeeded ? 0 : 1;
}
