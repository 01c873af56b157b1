package faulttest

import "testing"

func TestAPortBelongsToOneLab(t *testing.T) {
	t.Parallel()
	var labs [2]*Lab
	for i := range labs {
		lab, err := NewLab(LabOptions{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer lab.Close()
		labs[i] = lab
	}
	addr, err := labs[0].freePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if labs[0].take(t.Context(), addr) == nil || labs[1].take(t.Context(), addr) == nil {
		t.Errorf("%s was taken twice", addr)
	}
	if err := labs[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := labs[1].take(t.Context(), addr); err != nil {
		t.Errorf("%s is not free after the end of the lab that had it: %v", addr, err)
	}
}
