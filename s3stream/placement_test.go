package s3stream

import (
	"strings"
	"testing"
)

func TestPlacementFromEnv(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want Placement
		err  string
	}{
		"nothing": {nil, Placement{}, ""},
		"own":     {map[string]string{"PENSTOCK_LEADER": "head", "PENSTOCK_WORKERS": "4"}, Placement{Workers: 4, Addr: "head:7117"}, ""},
		"torchrun": {
			map[string]string{"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
			Placement{"torchrun", 3, 7, "10.0.0.1:29517"},
			"",
		},
		"torchrun on IPv6": {
			map[string]string{"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "fd00::1", "MASTER_PORT": "29500"},
			Placement{"torchrun", 0, 1, "[fd00::1]:29517"},
			"",
		},
		"LeaderWorkerSet": {
			map[string]string{"LWS_LEADER_ADDRESS": "lws-0.lws.ns", "LWS_GROUP_SIZE": "4", "LWS_WORKER_INDEX": "2"},
			Placement{"LeaderWorkerSet", 2, 3, "lws-0.lws.ns:7117"},
			"",
		},
		"indexed Job": {
			map[string]string{"JOB_COMPLETION_INDEX": "5", "PENSTOCK_LEADER": "job-0.svc:9000"},
			Placement{"indexed Job", 5, 0, "job-0.svc:9000"},
			"",
		},
		"bad rank":    {map[string]string{"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, Placement{}, `RANK is "x"`},
		"no size":     {map[string]string{"RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, Placement{}, `WORLD_SIZE is ""`},
		"high port":   {map[string]string{"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "65530"}, Placement{}, "MASTER_PORT"},
		"bad leader":  {map[string]string{"PENSTOCK_LEADER": "a:b:c"}, Placement{}, "PENSTOCK_LEADER"},
		"bad workers": {map[string]string{"PENSTOCK_WORKERS": "-1"}, Placement{}, "PENSTOCK_WORKERS"},
	} {
		got, err := PlacementFromEnv(c.env)
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v, want an error with %q", name, err, c.err)
		}
	}
}

func TestPlacementFills(t *testing.T) {
	p := Placement{"torchrun", 3, 7, "h:29517"}
	w := WorkerOptions{}
	if err := p.FillWorker(&w); err != nil || w.Leader != "h:29517" || w.Rank != 3 {
		t.Errorf("%+v, %v", w, err)
	}
	w = WorkerOptions{Leader: "other:1"}
	if err := p.FillWorker(&w); err != nil || w.Leader != "other:1" {
		t.Errorf("a given leader was replaced: %+v, %v", w, err)
	}
	if p.FillLeader(&LeaderOptions{}) == nil {
		t.Error("process 3 may lead")
	}
	p.Rank = 0
	l := LeaderOptions{}
	if err := p.FillLeader(&l); err != nil || l.Workers != 7 || l.Listen != ":29517" {
		t.Errorf("%+v, %v", l, err)
	}
	if p.FillWorker(&w) == nil {
		t.Error("process 0 may be a worker")
	}
	job := Placement{Launcher: "indexed Job", Rank: 1}
	if err := job.FillWorker(&WorkerOptions{}); err == nil || !strings.Contains(err.Error(), "PENSTOCK_LEADER") {
		t.Errorf("a worker without an address: %v", err)
	}
}
