# pg0: make demo shows the main job, make test proves it. Both install what
# they need first (make deps), as root with the system's package manager.
.PHONY: build deps lint test demo fuzz regress live-load bench bench-proxy clean

build:
	go build -o bin/pg0 ./cmd/pg0

deps:
	scripts/deps.sh

lint: deps
	scripts/lint.sh

test: deps lint
	scripts/test.sh

demo: deps build
	scripts/demo.sh

# FUZZTIME is the time for each fuzz target.
fuzz: deps
	scripts/fuzz.sh

# Mounts side by side with native directories; BENCH has arguments, such as
# -lines scan -rounds 3.
bench: deps build
	scripts/bench.sh $(BENCH)

# pg0 proxy side by side with pgbouncer and a direct connection.
bench-proxy: deps build
	scripts/bench-proxy.sh

# PostgreSQL's own regression suite on a mount and on a native directory.
regress: deps build
	scripts/regress.sh

# A production under pgbench while live points are taken of it.
live-load: deps build
	scripts/live-load.sh

clean:
	rm -rf bin .deps
