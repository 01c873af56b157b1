package devrecord

import (
	"os"
	"strconv"
	"strings"
)

// stat returns the fields of /proc/PID/stat from the process' state on: the name before it may hold anything.
func stat(pid int) []string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
}

// started is when a process began, in ticks since the machine did.
func started(pid int) string {
	if f := stat(pid); len(f) > 19 {
		return f[19]
	}
	return ""
}

// ended reports whether nothing but the exit status is left of a process.
func ended(pid int) bool {
	f := stat(pid)
	return len(f) > 0 && (f[0] == "Z" || f[0] == "X")
}

// Stopped reports whether a process is stopped, by SIGSTOP or a debugger.
func Stopped(pid int) bool {
	f := stat(pid)
	return len(f) > 0 && (f[0] == "T" || f[0] == "t")
}
