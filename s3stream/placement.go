package s3stream

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Placement is what a launcher's environment says of this process: whether it
// is the leader of its group, and where the leader is.
type Placement struct {
	Launcher string // "torchrun", "LeaderWorkerSet", "indexed Job"; "" for none
	Rank     int    // of this process; 0 is the leader
	Workers  int    // processes besides the leader; 0 if unknown
	Addr     string // of the leader, host:port; "" if unknown
}

// torchPortOffset is added to MASTER_PORT, which torch.distributed itself
// takes; the next few ports are popular with frameworks on top of it.
const torchPortOffset = 17

// PlacementFromEnv reads the variables of the known launchers. It is a pure
// function: env is the environment as a map. The first that is there counts:
//
//	PENSTOCK_LEADER, PENSTOCK_WORKERS                            override what follows
//	LWS_LEADER_ADDRESS, LWS_GROUP_SIZE, LWS_WORKER_INDEX         LeaderWorkerSet
//	RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT                   torchrun; the port is MASTER_PORT+17
//	JOB_COMPLETION_INDEX                                         indexed Job, JobSet; needs PENSTOCK_LEADER
//
// Without any of them the zero Placement is returned.
func PlacementFromEnv(env map[string]string) (Placement, error) {
	e := envReader{env: env}
	var p Placement
	switch {
	case env["LWS_LEADER_ADDRESS"] != "":
		p = Placement{Launcher: "LeaderWorkerSet", Rank: e.number("LWS_WORKER_INDEX", maxRank), Addr: e.addr("LWS_LEADER_ADDRESS")}
		if size := e.number("LWS_GROUP_SIZE", maxRank); size > 0 {
			p.Workers = size - 1
		}
	case env["RANK"] != "" && env["MASTER_ADDR"] != "":
		p = Placement{Launcher: "torchrun", Rank: e.number("RANK", maxRank)}
		if size := e.number("WORLD_SIZE", maxRank); size > 0 {
			p.Workers = size - 1
		}
		port := e.number("MASTER_PORT", 65535-torchPortOffset)
		p.Addr = net.JoinHostPort(env["MASTER_ADDR"], strconv.Itoa(port+torchPortOffset))
	case env["JOB_COMPLETION_INDEX"] != "":
		p = Placement{Launcher: "indexed Job", Rank: e.number("JOB_COMPLETION_INDEX", maxRank)}
	}
	if env["PENSTOCK_LEADER"] != "" {
		p.Addr = e.addr("PENSTOCK_LEADER")
	}
	if env["PENSTOCK_WORKERS"] != "" {
		p.Workers = e.number("PENSTOCK_WORKERS", MaxWorkers)
	}
	if e.err != nil {
		return Placement{}, e.err
	}
	return p, nil
}

// maxRank is far above any launcher's.
const maxRank = 1 << 24

// envReader keeps the first mistake.
type envReader struct {
	env map[string]string
	err error
}

func (e *envReader) number(name string, most int) int {
	s := e.env[name]
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		e.err = cmp.Or(e.err, fmt.Errorf("%s is %q: want a number from 0 to %d", name, s, most))
		return 0
	}
	return n
}

func (e *envReader) addr(name string) string {
	a, err := withPort(e.env[name])
	if err != nil {
		e.err = cmp.Or(e.err, fmt.Errorf("%s is %q: %w", name, e.env[name], err))
	}
	return a
}

// FillLeader sets the fields of o that have no value yet.
func (p Placement) FillLeader(o *LeaderOptions) error {
	if p.Launcher != "" && p.Rank != 0 {
		return fmt.Errorf("%s says that this is process %d; the leader is process 0", p.Launcher, p.Rank)
	}
	o.Workers = cmp.Or(o.Workers, p.Workers)
	if o.Listen == "" && p.Addr != "" {
		_, port, err := net.SplitHostPort(p.Addr)
		if err != nil {
			return err
		}
		o.Listen = ":" + port
	}
	return nil
}

// FillWorker sets the fields of o that have no value yet.
func (p Placement) FillWorker(o *WorkerOptions) error {
	if p.Launcher != "" && p.Rank == 0 {
		return fmt.Errorf("%s says that this is process 0, which is the leader", p.Launcher)
	}
	o.Leader = cmp.Or(o.Leader, p.Addr)
	o.Rank = cmp.Or(o.Rank, p.Rank)
	if o.Leader == "" && p.Launcher != "" {
		return errors.New("an " + p.Launcher + " does not tell where its first process is: set PENSTOCK_LEADER to host:port")
	}
	return nil
}
