package etcd

import (
	"slices"
	"sync"

	"github.com/newsvc/newsvc/framework/discovery"
)

// mailbox holds the newest update until it is taken; an older one that was not taken is replaced. One thing of the
// replaced ones is kept: instances that were draining and are gone since. Who takes the next update gets them first, in
// an update of their own, for only so can a reader that was busy tell a leave from a loss.
type mailbox struct {
	full chan struct{}
	mu   sync.Mutex
	last discovery.Update
	got  bool // last was taken
	left []*discovery.Instance
}

func newMailbox() *mailbox {
	return &mailbox{full: make(chan struct{}, 1), got: true}
}

func (b *mailbox) put(u discovery.Update) {
	b.mu.Lock()
	if !b.got {
		// One for each address, however often it comes and goes while nobody looks.
		b.left = merge(b.left, goodbyes(b.last.Instances, u.Instances))
	}
	b.last, b.got = u, false
	b.mu.Unlock()
	select {
	case b.full <- struct{}{}:
	default: // the one before was not taken yet; its taker gets this one
	}
}

// take returns what is to be handed on: nothing when the newest update was taken before, else that update, after one
// that still holds the instances that said goodbye in between.
func (b *mailbox) take() []discovery.Update {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.got {
		return nil
	}
	b.got = true
	if len(b.left) == 0 {
		return []discovery.Update{b.last}
	}
	before := b.last
	before.Instances = merge(b.last.Instances, b.left)
	b.left = nil
	return []discovery.Update{before, b.last}
}

// goodbyes returns the instances of before that were draining and whose address is not in now.
func goodbyes(before, now []*discovery.Instance) []*discovery.Instance {
	var left []*discovery.Instance
	for _, i := range before {
		if i.State != discovery.StateDraining {
			continue
		}
		if _, stays := slices.BinarySearchFunc(now, i, discovery.ByAddr); !stays {
			left = append(left, i)
		}
	}
	return left
}

// merge adds those of left whose address is not taken, and returns a new sorted slice.
func merge(now, left []*discovery.Instance) []*discovery.Instance {
	out := slices.Clone(now)
	for _, i := range left {
		if at, taken := slices.BinarySearchFunc(out, i, discovery.ByAddr); !taken {
			out = slices.Insert(out, at, i)
		}
	}
	return out
}
