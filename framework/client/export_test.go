package client

// Ways counts the addresses that the ejector of a connection knows the way to.
func Ways(c *Conn) (addresses, known int) {
	e := c.cur.Load().ejector
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.ways {
		if w.took > 0 {
			known++
		}
	}
	return len(e.ways), known
}
