//go:build !linux

package deploy_test

import "errors"

const contained = "DEPLOY_TEST_IMAGE"

func enter(string) error { return errors.New("there are no mount namespaces here") }
