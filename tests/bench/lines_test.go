//go:build bench

package bench

var allLines = []line{
	{"sequential scan, kernel cache warm", ">= 0.95", 0.95, true, "s", warmScan},
	{"pgbench -S, 4 clients, kernel cache warm", ">= 0.95", 0.95, false, "tps", selectOnly},
	{"first scan, uncompressed backup, cached; one process", ">= 0.80", 0.80, true, "s", firstScanNoneAlone},
	{"first scan, uncompressed backup, cached; with two workers", ">= 0.80", 0.80, true, "s", firstScanNone},
	{"first scan, zlib backup, against decoding on all cores and the native scan; one process", ">= 0.80", 0.80, true, "s", firstScanZlibAlone},
	{"first scan, zlib backup, against decoding on all cores and the native scan; with two workers", ">= 0.80", 0.80, true, "s", firstScanZlib},
	{"random 8 KiB reads, 16 in flight, nothing cached", ">= 0.50", 0.50, false, "reads/s", randomUncached},
	{"random 8 KiB reads, 16 in flight, backup and native file cached", ">= 0.50", 0.50, false, "reads/s", randomCached},
	{"scan of a donor frozen on read, against the same table in its own mount", ">= 0.95", 0.95, true, "s", frozenScan},
	{"command to first row without image, against copy, recovery and start", "> 5", 5, true, "s", firstUse},
	{"pgbench TPC-B, 4 clients, --layer, fsync on", ">= 0.85", 0.85, false, "tps", writingSynced},
	{"pgbench TPC-B, 4 clients, --layer, fsync off", ">= 0.85", 0.85, false, "tps", writingUnsynced},
}

var allFacts = []fact{
	{"random 8 KiB reads, 1 in flight: later than pread on the backup file", "<= 40 us", randomOver},
	{"command to first row, image cached, backups of 0.1, 1 and 10 GB", "<= 0.5 s, equal", cachedStart},
	{"memory of the file server after reading every file", "<= 96 MiB and --cache-size", memory},
	{"catalog of 100,000 files, chain of 31", "<= 1 s and <= 3 s", bigCatalog},
	{"adopting 500 relations: command to server", "<= 10 s", adopting},
}
