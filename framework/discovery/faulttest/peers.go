package faulttest

import "bytes"

// senderHeader is how members say who they are in each request to another.
const senderHeader = "X-Server-From: "

// raftSender finds who speaks in what was read from a connection between members. All that the consensus says carries
// the header, at the beginning of the connection or of a later request; it may only be missed where a read ends inside
// of it, and then the next request tells.
func raftSender(chunk []byte) string {
	_, after, ok := bytes.Cut(chunk, []byte(senderHeader))
	if !ok {
		return ""
	}
	id, _, ok := bytes.Cut(after, []byte("\r\n"))
	if !ok {
		return ""
	}
	return string(id)
}

// cutOff tells whether nothing may pass from that sender to the member: one of both is isolated.
func (c *Cluster) cutOff(to *Member, from string) bool {
	for _, m := range c.members {
		m.mu.Lock()
		isolated, id := m.isolated, m.id
		m.mu.Unlock()
		if isolated && (m == to || id == from && from != "") {
			return true
		}
	}
	return false
}
