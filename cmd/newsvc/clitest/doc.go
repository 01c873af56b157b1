// Package clitest runs the newsvc command on whole projects: each is created, tested, linted, started, called by its name and
// stopped, as a person would do it. That takes minutes, so the tests run only for `make test-cli`, which sets NEWSVC_TEST_CLI=1.
package clitest
