//go:build !race

package probackup

const raceEnabled = false
