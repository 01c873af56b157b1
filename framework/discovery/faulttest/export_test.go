package faulttest

import "os"

// Spoil puts a file in the place of the data.
func (m *Member) Spoil() error {
	if err := m.removeData(); err != nil {
		return err
	}
	return os.WriteFile(m.data(), nil, 0o600)
}
