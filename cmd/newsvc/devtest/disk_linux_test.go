package devtest_test

import "syscall"

// fullDisk puts a file system over a directory that holds next to nothing.
func fullDisk(dir string) error { return syscall.Mount("none", dir, "tmpfs", 0, "size=16k") }

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
