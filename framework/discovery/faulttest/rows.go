package faulttest

import (
	"regexp"
	"slices"
	"time"
)

// Times within which all must be well again after a fault, as the design promises them.
const (
	limitUsual   = 3 * time.Second
	limitSilent  = 13 * time.Second // a link that swallows everything is found by probes
	limitDead    = 20 * time.Second // a server that falls silent without a word
	limitReset   = 40 * time.Second // an etcd that went back in time looks silent
	limitRefused = 36 * time.Second // who was refused asks again every 30 s, give or take a fifth
)

// Rows returns all faults that callers can notice, in the order of the table.
func Rows() []Row {
	return slices.Concat(etcdRows(), dataRows(), accessRows(), linkRows(), clusterRows(), serverRows(), addressRows())
}

// RowsMatching returns the rows whose ids match.
func RowsMatching(ids *regexp.Regexp) []Row {
	return slices.DeleteFunc(Rows(), func(r Row) bool { return !ids.MatchString(r.ID) })
}
