package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/newsvc/newsvc/framework/client/internal/ejection"
)

// EjectionState is how far an ejected instance is on its way back.
type EjectionState struct {
	// Phase is [EjectionSentence], [EjectionProbing] or [EjectionTrial], in this order.
	Phase string `json:"phase"`
	// Reason is why it was ejected.
	Reason string `json:"reason"`
	// Since is when it was ejected. Sentences that follow one another without a return between them count as one.
	Since time.Time `json:"since"`
	// Until is when its sentence ends; zero in the other phases, which end by what it answers.
	Until time.Time `json:"until,omitzero"`
	// ProbeError is how the last question to its health service failed since its sentence ended; empty until one did.
	ProbeError string `json:"probe_error,omitempty"`
}

// The phases of an ejected instance.
const (
	EjectionSentence = "sentence" // gets no calls and is asked for nothing
	EjectionProbing  = "probing"  // its sentence is over; its health service is asked until it answers well
	EjectionTrial    = "trial"    // it answers well, and gets one call at a time
)

// standing is an ejected instance as an error, for people.
type standing struct {
	ejection.Standing
	now time.Time
}

// Error says how far it is on its way back, and why it was ejected.
func (s standing) Error() string {
	ago := s.now.Sub(s.Since).Round(100 * time.Millisecond)
	why := fmt.Sprintf("(ejected %v ago: %s)", ago, s.Reason.Text)
	switch e := s.state(); {
	case e.Phase == EjectionSentence:
		return fmt.Sprintf("ejected until %s (in %v): %s", s.Until.Format(time.TimeOnly), s.Until.Sub(s.now).Round(100*time.Millisecond), s.Reason.Text)
	case e.Phase == EjectionTrial:
		return "ejected, on trial: it answers its health probe and gets one call at a time " + why
	case s.Probed == "":
		return "ejected, being probed: its sentence is over, no answer yet " + why
	}
	return "ejected, being probed: " + s.Probed + " " + why
}

func (s standing) state() *EjectionState {
	e := &EjectionState{Phase: EjectionProbing, Reason: s.Reason.Text, Since: s.Since, ProbeError: s.Probed}
	switch {
	case s.Phase == ejection.Trial:
		e.Phase, e.ProbeError = EjectionTrial, ""
	case s.Until.After(s.now): // else it waits to be asked, for its connection maybe
		e.Phase, e.Until = EjectionSentence, s.Until
	}
	return e
}

// ejectionOf reads an ejected instance's state out of the error that the balancer hands on; nil for another error.
func ejectionOf(out error) *EjectionState {
	if s, ok := errors.AsType[standing](out); ok {
		return s.state()
	}
	return nil
}
