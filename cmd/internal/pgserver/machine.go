package pgserver

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
)

// machine sizes memory so that several servers fit beside the file server: the
// pages of a mount are in the kernel's cache as well.
func (c Config) machine() []Setting {
	memory := c.Memory
	if memory == 0 {
		memory = totalMemory()
	}
	megabytes := func(value, least, most int64) string {
		return strconv.FormatInt(min(max(value>>20, least), most), 10) + "MB"
	}
	return []Setting{
		{"shared_buffers", megabytes(memory/16, 32, 512)},
		{"effective_cache_size", megabytes(memory/2, 128, 1<<20)},
		{"maintenance_work_mem", megabytes(memory/32, 64, 512)},
		{"work_mem", megabytes(memory/512, 8, 64)},
		{"huge_pages", "off"},
	}
}

// defaultMemory is assumed where the kernel does not say.
const defaultMemory = 1 << 30

// totalMemory is the memory of this machine, or of the container if less.
func totalMemory() int64 {
	memory := memTotal()
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			memory = min(memory, limit)
		}
	}
	return memory
}

func memTotal() int64 {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return defaultMemory
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		if kilobytes, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			return kilobytes << 10
		}
	}
	return defaultMemory
}

// HasLocale says whether this machine has a locale, whatever the spelling of
// its codeset.
func HasLocale(name string) bool {
	return name == "" || name == "C" || name == "POSIX" || locales()[normalLocale(name)]
}

var locales = sync.OnceValue(func() map[string]bool {
	set := map[string]bool{}
	out, err := exec.Command("locale", "-a").Output()
	if err != nil {
		return set // musl has no such program, and takes no locale either
	}
	for name := range strings.Lines(string(out)) {
		set[normalLocale(strings.TrimSpace(name))] = true
	}
	return set
})

// normalLocale spells the codeset as glibc does: en_US.UTF-8 is en_US.utf8.
func normalLocale(name string) string {
	lang, codeset, ok := strings.Cut(name, ".")
	if !ok {
		return name
	}
	codeset, modifier, hasModifier := strings.Cut(codeset, "@")
	codeset = strings.Map(func(r rune) rune {
		if r == '-' || r == '_' {
			return -1
		}
		return r
	}, strings.ToLower(codeset))
	if hasModifier {
		modifier = "@" + modifier
	}
	return lang + "." + codeset + modifier
}
