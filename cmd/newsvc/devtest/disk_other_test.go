//go:build unix && !linux

package devtest_test

import "errors"

func fullDisk(string) error { return errors.ErrUnsupported }

func unmount(string) error { return errors.ErrUnsupported }
