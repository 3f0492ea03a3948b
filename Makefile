# postgres_lock: build, install and test with PGXS. `make install-client` installs the C++ client alone,
# and needs no PostgreSQL; `make install NO_CLIENT=yes` all but the client. `make dist` makes the archives
# of a release. The COMMANDS need nothing but make and a Debian system; they live in test/ and bring what
# else they use.

EXTENSION = postgres_lock
version = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(srcdir)/postgres_lock.control)
MODULE_big = postgres_lock
OBJS = $(patsubst $(srcdir)/%.cpp,%.o,$(wildcard $(srcdir)/src/server/*.cpp))
# PGXS puts $(srcdir) before these
DATA = $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/sql/postgres_lock--*.sql))
# not DOCS: images of containers leave /usr/share/doc out
DATA += $(addprefix src/monitoring/postgres_lock_,exporter.yaml alerts.yaml dashboard.json)
DATA += src/proxy/postgres_lock_proxy.control src/proxy/postgres_lock_proxy--1.0.sql

REGRESS = $(filter-out postgres_lock--%,$(notdir $(basename $(wildcard $(srcdir)/sql/*.sql))))
REGRESS_OPTS = --inputdir=$(srcdir) --load-extension=postgres_lock
ISOLATION = $(notdir $(basename $(wildcard $(srcdir)/test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(srcdir)/test --load-extension=postgres_lock
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

# PostgreSQL's headers are made for C: -isystem keeps their warnings out of ours
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server) -DPGLOCK_VERSION='"$(version)"'
# PGXS has COPT reach C only: make COPT=-Werror
PG_CXXFLAGS = -std=c++20 -Wall -Wextra -fno-exceptions -fno-rtti -fno-threadsafe-statics \
	-Wno-register $(COPT)
SHLIB_LINK = -lcrypto

srcdir ?= .
.DEFAULT_GOAL := all

COMMANDS = demo test matrix client-matrix assert-test sanitize-test postgres-test packages install-test bench peers curves chaos ha
CLIENT_TARGETS = install-client uninstall-client

# the commands find or install their own PostgreSQL; the client alone and the archives need no server
goals := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out $(COMMANDS) $(CLIENT_TARGETS) dist,$(goals)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
# without it every directory would be empty, and all paths begin at /
ifeq ($(and $(PGXS),$(wildcard $(PGXS))),)
$(error PG_CONFIG=$(PG_CONFIG) is not the pg_config of a PostgreSQL that extensions can be built \
	for. Install the package for that (Debian: postgresql-server-dev-17, Fedora: \
	postgresql-server-devel, PGDG: postgresql17-devel), or say where another PostgreSQL is: \
	make PG_CONFIG=/path/to/pg_config)
endif

# The bitcode is for inlining by the JIT compiler alone, and often the clang that PostgreSQL was built
# with is missing. Bitcode that an earlier build has installed can be uninstalled without it.
ifneq ($(filter-out uninstall,$(goals)),)
postgres_makefile := $(dir $(PGXS))../Makefile.global
of_postgres = $(shell sed -n 's/^$(1)[[:blank:]]*=[[:blank:]]*//p' $(postgres_makefile))
CLANG := $(call of_postgres,CLANG)
has_clang := $(shell command -v $(firstword $(CLANG)))
ifeq ($(or $(with_llvm),$(call of_postgres,with_llvm)) $(has_clang),yes )
$(info building without bitcode for the JIT compiler: there is no $(or $(CLANG),clang))
override with_llvm := no
endif
endif

include $(PGXS)
ifneq ($(filter 9.% 10 11 12 13 14,$(MAJORVERSION)),)
$(error postgres_lock requires PostgreSQL 15 or later, and $(PG_CONFIG) is of $(MAJORVERSION))
endif

# the bitcode step is not given PG_CXXFLAGS
COMPILE.cxx.bc += $(PG_CXXFLAGS)

$(OBJS) $(OBJS:.o=.bc): $(wildcard $(srcdir)/src/server/*.hpp) | objects-folder
# the version
$(foreach file,module version,src/server/$(file).o src/server/$(file).bc): $(srcdir)/postgres_lock.control

# not there where the build is outside the sources
.PHONY: objects-folder
objects-folder:
	@mkdir -p src/server

ifndef NO_CLIENT
install: install-client
uninstall: uninstall-client
endif
else
prefix ?= /usr/local
includedir ?= $(prefix)/include
libdir ?= $(prefix)/lib
endif

$(foreach directory,includedir libdir,$(if $(filter /%,$($(directory))),, \
	$(error $(directory)=$($(directory)) is not an absolute path)))

# the C++ client: its headers, and what pkg-config and CMake know of them
client = $(srcdir)/src/client
client_headers = $(DESTDIR)$(includedir)/postgres_lock
client_pkgconfig = $(DESTDIR)$(libdir)/pkgconfig
client_cmake = $(DESTDIR)$(libdir)/cmake/postgres_lock
fill_in = sed -e 's,@includedir@,$(includedir),' -e 's,@version@,$(version),'

.PHONY: $(CLIENT_TARGETS)
install-client:
	mkdir -p '$(client_headers)/detail' '$(client_pkgconfig)' '$(client_cmake)'
	install -m 644 $(client)/postgres_lock/*.hpp '$(client_headers)'
	install -m 644 $(client)/postgres_lock/detail/*.hpp '$(client_headers)/detail'
	$(fill_in) $(client)/package/postgres_lock.pc.in >'$(client_pkgconfig)/postgres_lock.pc'
	for file in postgres_lock-config postgres_lock-config-version; do \
		$(fill_in) $(client)/package/$$file.cmake.in >'$(client_cmake)'/$$file.cmake || exit 1; \
	done

uninstall-client:
	rm -f '$(client_headers)'/*.hpp '$(client_headers)'/detail/*.hpp
	rm -f '$(client_cmake)'/postgres_lock-config*.cmake '$(client_pkgconfig)/postgres_lock.pc'
	rmdir '$(client_headers)/detail' '$(client_headers)' '$(client_cmake)' 2>/dev/null || true

# the archives of what is committed: for PGXN, which wants three numbers, and for everybody else
archive = postgres_lock-$(version).0

.PHONY: dist
dist:
	for format in zip tar.gz; do \
		git -C '$(srcdir)' archive --prefix='$(archive)/' --output='$(CURDIR)/$(archive)'.$$format HEAD || exit 1; \
	done

.PHONY: $(COMMANDS)
$(COMMANDS):
	@bash $(srcdir)/test/$@.sh
