package discovery

// DecodeSlowly and DecodeFast are the two ways in which Decode reads JSON.
func DecodeSlowly(service string, value []byte) (*Instance, error) {
	return decodeSlowly(service, value)
}

// DecodeFast reports false when it declines.
func DecodeFast(service, value string) (inst *Instance, ok bool, err error) {
	var addr string
	var m metadata
	switch readUsual(value, &addr, &m) {
	case usualForeign:
		inst, err = fromRecord(service, addr, nil)
	case usualOurs:
		inst, err = fromRecord(service, addr, &m)
	default:
		return nil, false, nil
	}
	return inst, true, err
}
