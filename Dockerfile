# PostgreSQL's own image with the extension, preloaded: docker build -t postgres_lock --build-arg PG_MAJOR=17 .
ARG PG_MAJOR=17
FROM postgres:${PG_MAJOR} AS build
RUN apt-get update && \
	apt-get install -y --no-install-recommends g++ make postgresql-server-dev-${PG_MAJOR}
COPY . /src
RUN make -C /src -j"$(nproc)" PG_CONFIG=/usr/lib/postgresql/${PG_MAJOR}/bin/pg_config && \
	make -C /src install NO_CLIENT=yes DESTDIR=/installed PG_CONFIG=/usr/lib/postgresql/${PG_MAJOR}/bin/pg_config

FROM postgres:${PG_MAJOR}
COPY --from=build /installed /
CMD ["postgres", "-c", "shared_preload_libraries=postgres_lock"]
