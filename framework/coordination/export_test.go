package coordination

import "time"

// SetTimeOfDay replaces the time of day of what c takes from now on.
func SetTimeOfDay(c *Coordinator, now func() time.Time) { c.timeOfDay = now }
