package ops

import (
	"context"

	"madmail/internal/doctor"
)

// Checkup asks for checks: all, or those that are named. Fix uses remedies that cannot
// do harm.
type Checkup struct {
	Only []string `json:"only"`
	Fix  bool     `json:"fix"`
}

// Diagnosis is what was found.
type Diagnosis struct {
	Worst    doctor.Level     `json:"worst"`
	Findings []doctor.Finding `json:"findings"`
}

func (d *Desk) doctor(ctx context.Context, p Checkup) (Diagnosis, error) {
	f, err := d.Facts(ctx)
	if err != nil {
		return Diagnosis{}, err
	}
	if d.Keys.Facts != nil {
		f.Zone = d.zoneForDoctor
	}
	list, err := doctor.Run(ctx, f, p.Only, p.Fix)
	return Diagnosis{Worst: doctor.Worst(list), Findings: list}, err
}

func (d *Desk) zoneForDoctor(ctx context.Context) (list []doctor.Record, reason string, err error) {
	z, err := d.zone(ctx, ZoneRequest{Check: true})
	for _, r := range z.Records {
		list = append(list, doctor.Record{Name: r.Name, Type: r.Type, State: r.State, Error: r.Error, Required: r.Required})
	}
	return list, z.Reason, err
}
