package dev

import (
	"io/fs"
	"syscall"
	"time"
)

// touched is when a file was written, or moved to where it is: a move leaves the time of its content as it was.
func touched(info fs.FileInfo) time.Time {
	at := info.ModTime()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		if moved := time.Unix(s.Ctim.Unix()); moved.After(at) {
			return moved
		}
	}
	return at
}
