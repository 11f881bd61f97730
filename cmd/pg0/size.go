package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a flag for a number of bytes, with PostgreSQL's units.
type size int64

var sizeUnits = map[string]int64{
	"": 1, "b": 1,
	"k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30, "t": 1 << 40, "tb": 1 << 40,
}

// Set reads a whole number and a unit: 512MB, 10G.
func (s *size) Set(text string) error {
	text = strings.TrimSpace(text)
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	unit, known := sizeUnits[strings.ToLower(strings.TrimSpace(text[end:]))]
	n, err := strconv.ParseInt(text[:end], 10, 64)
	if err != nil || !known || n <= 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is not a size: write a number and kB, MB, GB or TB", text)
	}
	*s = size(n * unit)
	return nil
}

// String prints the number of bytes.
func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type names the value in the help.
func (s *size) Type() string { return "size" }
