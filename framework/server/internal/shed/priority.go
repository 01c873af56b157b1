package shed

// Priority says which calls go first when not all can be answered. The zero value is [Default].
type Priority int8

// The priorities, as distances from the default.
const (
	Critical  Priority = -2
	High      Priority = -1
	Default   Priority = 0
	Low       Priority = 1
	Sheddable Priority = 2
)

// ParsePriority reads a priority as it travels: a number from 0, the highest, to 4, or the name of one of three. It
// reports false for anything else.
func ParsePriority(s string) (Priority, bool) {
	switch s {
	case "0", "critical":
		return Critical, true
	case "1":
		return High, true
	case "2", "default":
		return Default, true
	case "3":
		return Low, true
	case "4", "sheddable":
		return Sheddable, true
	}
	return Default, false
}

// share is how many of the calls in flight may be there for one of this priority to be admitted. The default alone
// fills the bound; below it is left to more important calls, and above it only they go.
func (p Priority) share(bound int64) int64 {
	switch p {
	case Critical:
		return bound + (bound+1)/2
	case High:
		return bound + (bound+3)/4
	case Low:
		return bound - bound/4
	case Sheddable:
		return bound - bound/2
	}
	return bound
}
