//go:build !unix

package faulttest

import "errors"

var errNoFreeze = errors.New("this operating system cannot stop a process and let it go on")

func freeze(*Process) error { return errNoFreeze }

func thaw(*Process) error { return errNoFreeze }
