package fakeetcd

import _ "unsafe" // for go:linkname

// watchParent is the channel that clientv3 has for the end of the context above all watches, and that it never closes.
//
//go:linkname watchParent go.etcd.io/etcd/client/v3.valCtxCh
var watchParent chan struct{} //nolint:gochecknoglobals // it is clientv3's, not ours

// AllowBubbles makes clientv3 fit for testing/synctest, for the whole process: TestMain calls it before any client is made.
//
// The client makes one channel when the program starts and waits on it with each watch. In a bubble that is a wait for
// something outside of it, and time in there would stand still for good. A channel that is never closed does the same when it
// is nil: nobody waits on it then.
func AllowBubbles() { watchParent = nil }
