# The stages at nano size. Every product is a folder that is made when it is absent, from what it
# needs, so that asking for a stage trains all before it; a run that was interrupted goes on.
# `make train` and `make train-smoke` call this in the folder where data/ and runs/ shall stand.

BIN      ?= .venv/bin
RECIPES  ?= training/recipes/nano
EPISODES ?= 90
HELD_OUT ?= 12
QUESTIONS ?= --train 12000 --test 600
CODEC    ?= --steps 400 --hidden 8 --stretch dataset
STEPS    ?=
SET      ?=
WORKERS  ?= 2
SIZE     ?= 240x180

TRAIN := $(BIN)/molmoact-train
# How a stage is run: `train_skill.mk` runs it on as many processes as there are cores.
RUN   ?= $(TRAIN) run
runs   = $(addprefix runs/nano/,$(addsuffix /checkpoint,$(1)))

.DEFAULT_GOAL := runs/nano/bundle
.SECONDARY:

data/demos:
	$(TRAIN) demos $@ --episodes $(EPISODES) --seed 0 --size $(SIZE) --workers $(WORKERS)

data/demos_held_out:
	$(TRAIN) demos $@ --episodes $(HELD_OUT) --seed 1 --size $(SIZE) --workers $(WORKERS) --held-out

data/norm_stats.json: | data/demos
	$(TRAIN) stats data/demos --embodiment so101 --out $@

data/openfast: | data/demos data/norm_stats.json
	$(TRAIN) openfast fit $@ --data data/demos:so101 --norm-stats data/norm_stats.json --chunks 20000

data/questions/%:
	$(TRAIN) questions $@ --kind $* $(QUESTIONS) --workers $(WORKERS)

data/depth_codec: | data/demos
	$(TRAIN) depth fit $@ --data data/demos $(CODEC)

data/demos_depth: | data/depth_codec
	$(TRAIN) depth annotate data/demos --codec data/depth_codec --out $@ --workers $(WORKERS)

runs/nano/%/checkpoint:
	$(RUN) $(RECIPES)/$*.yaml --out runs/nano/$* \
	  $(if $(wildcard runs/nano/$*),--resume) $(if $(STEPS),--set steps=$(STEPS)) $(SET)

$(call runs,general): | data/questions/general data/questions/text
$(call runs,specialise): | $(call runs,general) data/questions/embodied
$(call runs,rehearse): | $(call runs,specialise)
$(call runs,joint): | $(call runs,general) data/questions/embodied
$(call runs,discrete): | $(call runs,rehearse) data/openfast
$(call runs,expert): | $(call runs,discrete)
$(call runs,depth): | $(call runs,expert) data/demos_depth
$(call runs,finetune finetune-lora finetune-expert): | $(call runs,expert)

runs/nano/bundle: | $(call runs,depth)
	$(BIN)/molmoact-quantize build runs/nano/depth/checkpoint $@ --recipe int8

data/demos_held_out_depth: | data/demos_held_out data/depth_codec
	$(TRAIN) depth annotate data/demos_held_out --codec data/depth_codec --out $@ --workers $(WORKERS)

runs/nano/depth_report.md: | $(call runs,depth) data/demos_held_out_depth
	$(TRAIN) depth report data/demos_held_out --codec data/depth_codec --episodes $(HELD_OUT) \
	  --checkpoint runs/nano/depth/checkpoint --annotations data/demos_held_out_depth --out $@
