package probackup

import (
	"strconv"
	"strings"
	"time"
)

// formatID gives a backup's name: its start in seconds of the epoch, base 36,
// upper case.
func formatID(start time.Time) string {
	return strings.ToUpper(strconv.FormatInt(start.Unix(), 36))
}

// parseID gives the start time that a backup's name stands for.
func parseID(id string) (time.Time, bool) {
	seconds, err := strconv.ParseInt(strings.ToLower(id), 36, 64)
	if err != nil || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0).UTC(), true
}

// version is pg_probackup's program version as one number: 2.5.16 is 20516.
type version int

const (
	version2      version = 20000
	version2_0_22 version = 20022
	version2_0_23 version = 20023
	version2_0_25 version = 20025
	version2_4    version = 20400
	version2_6    version = 20600
	version3      version = 30000
)

// parseVersion reads a.b.c; what is missing or no number counts as zero.
func parseVersion(s string) version {
	v := 0
	parts := strings.SplitN(s, ".", 4)
	for i := range 3 {
		v *= 100
		if i < len(parts) {
			n, err := strconv.Atoi(parts[i])
			if err == nil && n >= 0 && n < 1000 {
				v += n
			}
		}
	}
	return version(v)
}
