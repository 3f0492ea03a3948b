# postgres_lock: build, install and test with PGXS. `make demo`, `make test` and `make bench` need
# nothing but make and a Debian system; they live in test/ and bring what else they use.

EXTENSION = postgres_lock
MODULE_big = postgres_lock
OBJS = $(patsubst $(srcdir)/%.cpp,%.o,$(wildcard $(srcdir)/src/server/*.cpp))
# PGXS puts $(srcdir) before these
DATA = $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/sql/postgres_lock--*.sql))
DOCS = src/monitoring/postgres_lock_exporter.yaml

REGRESS = $(filter-out postgres_lock--%,$(notdir $(basename $(wildcard $(srcdir)/sql/*.sql))))
REGRESS_OPTS = --inputdir=$(srcdir) --load-extension=postgres_lock
ISOLATION = $(notdir $(basename $(wildcard $(srcdir)/test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(srcdir)/test --load-extension=postgres_lock
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

# PostgreSQL's headers are made for C: -isystem keeps their warnings out of ours
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server)
# PGXS has COPT reach C only: make COPT=-Werror
PG_CXXFLAGS = -std=c++20 -Wall -Wextra -fno-exceptions -fno-rtti -fno-threadsafe-statics \
	-Wno-register $(COPT)
SHLIB_LINK = -lcrypto

srcdir ?= .

COMMANDS = demo test bench

# the commands find or install their own PostgreSQL
ifneq ($(filter-out $(COMMANDS),$(or $(MAKECMDGOALS),all)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS looks for them by their path in the sources
uninstall: uninstall-docs
.PHONY: uninstall-docs
uninstall-docs:
	rm -f $(addprefix '$(DESTDIR)$(docdir)/$(docmoduledir)'/,$(notdir $(DOCS)))

# the bitcode step is not given PG_CXXFLAGS
COMPILE.cxx.bc += $(PG_CXXFLAGS)

$(OBJS) $(OBJS:.o=.bc): $(wildcard $(srcdir)/src/server/*.hpp)
endif

.PHONY: $(COMMANDS)
$(COMMANDS):
	@bash $(srcdir)/test/$@.sh
