//go:build !linux

package dev

import (
	"io/fs"
	"time"
)

// touched is when a file was written.
func touched(info fs.FileInfo) time.Time { return info.ModTime() }
