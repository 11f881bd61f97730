//go:build race

package probackup

// raceEnabled: the race detector makes pools forget, so that reads allocate.
const raceEnabled = true
