package ejection

// Steady makes sentences as long as they are on average, so that a simulation is the same each time.
func (m *Machine) Steady() { m.jitter = func() float64 { return 0.5 } }
