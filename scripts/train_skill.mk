# The checkpoint that can do something: three sets of embodied questions about the simulated desk, from
# what lies where to places behind words, then the desk's three tasks as discrete actions, as flow, and
# with depth, the policy's own states among them. Every product is made when it is absent, and what was
# interrupted goes on:
#
#     make -f scripts/train_skill.mk
#     make -f scripts/train_skill.mk BEGUN=checkpoints/nano
#
# BEGUN is a checkpoint with the logs of the stages behind it, its depth codec and action tokenizer:
# what comes after them is made.

BIN       ?= .venv/bin
RECIPES   ?= training/recipes/skill
PROCESSES ?= 2
BEGUN     ?=

TRAIN  := $(BIN)/molmoact-train
MOMENTS = mkdir -p $(@D) && $(TRAIN) demos $@ --light-only --workers $(PROCESSES)
DEMOS   = $(MOMENTS) --every 5 --tasks touch,touch,put_in_bin,put_in_bin,push_to_mark
LAUNCH := OMP_NUM_THREADS=1 $(BIN)/python -m accelerate.commands.launch --multi_gpu \
	--num_processes $(PROCESSES) --main_process_port 0 -m training.cli

STAGES := map list name mention discrete expert depth
BEHIND := $(foreach stage,$(STAGES),$(if $(wildcard $(BEGUN)/logs/$(stage)),$(stage)))
LAST   := $(lastword $(BEHIND))
LOGS    = $(foreach stage,$(STAGES),$(if $(filter $(stage),$(BEHIND)),$(BEGUN)/logs/$(stage),runs/skill/$(stage)))
of_begun = $(if $(wildcard $(BEGUN)/$1),cp -r $(BEGUN)/$1 $@)

.DEFAULT_GOAL := runs/skill/shipped
.SECONDARY:

data/questions/maps:
	$(TRAIN) questions $@ --kind maps --train 8000 --test 300 --height 240 --workers $(PROCESSES)

data/questions/lists:
	$(TRAIN) questions $@ --kind lists --train 16000 --test 600 --height 240 --workers $(PROCESSES)

data/questions/mentions_at_once:
	$(TRAIN) questions $@ --kind mentions --at-once 1 --train 16000 --test 600 --height 240 \
	  --workers $(PROCESSES)

data/questions/mentions:
	$(TRAIN) questions $@ --kind mentions --train 16000 --test 600 --height 240 \
	  --workers $(PROCESSES)

data/skill/demos:
	$(DEMOS) --episodes 700 --seed 10

# Most pictures with another instruction than that being followed.
data/skill/crossed:
	$(MOMENTS) --every 10 --other-tasks 0.8 --episodes 400 --seed 20 \
	  --tasks touch,put_in_bin,put_in_bin,push_to_mark \
	  --starts folded=0.3,somewhere=0.4,missed=0.15,after=0.15

# Each picture once for every cube: nothing but the words tells one moment from the next.
data/skill/beginnings:
	$(MOMENTS) --beginnings --every 15 --episodes 350 --seed 30 --tasks touch

# The hand nearly right, so that where it is does not tell where the cube is.
data/skill/recoveries:
	$(MOMENTS) --recoveries --every 6 --episodes 500 --seed 40 --tasks touch,touch,push_to_mark

# Where the policy brings itself, and what the scripted expert would do there.
data/skill/corrections: | runs/skill/expert/bundle
	$(MOMENTS) --every 10 --episodes 150 --starts folded=0.5,somewhere=0.1,missed=0.1,after=0.3 \
	  --tasks touch,put_in_bin,put_in_bin,push_to_mark,push_to_mark --seed 11 \
	  --policy runs/skill/expert/bundle

runs/skill/%/bundle: | runs/skill/%/checkpoint
	$(BIN)/molmoact-quantize build runs/skill/$*/checkpoint $@ --recipe fp32

data/skill/norm_stats.json: | data/skill/demos
	$(TRAIN) stats data/skill/demos --embodiment so101 --out $@

data/skill/openfast: | data/skill/norm_stats.json
	$(or $(call of_begun,action_tokenizer),$(TRAIN) openfast fit $@ --data data/skill/demos:so101 \
	  --norm-stats data/skill/norm_stats.json --chunks 20000)

data/skill/depth_codec: | data/skill/demos
	$(or $(call of_begun,depth_codec),$(TRAIN) depth fit $@ --data data/skill/demos --steps 400 \
	  --hidden 8 --stretch dataset)

data/skill/%_depth: | data/skill/% data/skill/depth_codec
	$(TRAIN) depth annotate data/skill/$* --codec data/skill/depth_codec --out $@ \
	  --workers $(PROCESSES)

runs/skill/%/checkpoint:
	$(LAUNCH) run $(RECIPES)/$*.yaml --out runs/skill/$* $(if $(wildcard runs/skill/$*),--resume)

ifneq ($(LAST),)
runs/skill/$(LAST)/checkpoint:
	mkdir -p $(@D) && cp -r $(BEGUN) $@
endif
needs = $(if $(filter $1,$(BEHIND)),,$(eval runs/skill/$1/checkpoint: | $2))
TASKS := $(addprefix data/skill/,openfast demos crossed beginnings)
$(call needs,map,data/questions/maps)
$(call needs,list,runs/skill/map/checkpoint data/questions/lists data/questions/maps)
$(call needs,name,runs/skill/list/checkpoint data/questions/mentions_at_once data/questions/lists)
$(call needs,mention,runs/skill/name/checkpoint \
	$(addprefix data/questions/,mentions mentions_at_once lists))
$(call needs,discrete,runs/skill/mention/checkpoint $(TASKS) data/questions/mentions)
TASKS += data/skill/recoveries
$(call needs,expert,runs/skill/discrete/checkpoint $(TASKS) data/questions/mentions)
TASKS += $(addprefix data/skill/,demos_depth crossed_depth recoveries_depth)
$(call needs,depth,runs/skill/expert/checkpoint $(TASKS) data/questions/mentions \
	data/skill/corrections_depth)

# For the ablation in docs/fidelity.md: flow straight after places behind words.
runs/skill/expert_without_discrete/checkpoint: | runs/skill/mention/checkpoint $(TASKS) \
	data/questions/mentions
	$(LAUNCH) run $(RECIPES)/expert.yaml --out $(@D) --set from=runs/skill/mention/checkpoint \
	  $(if $(wildcard $(@D)),--resume)

# What lies in checkpoints/nano: half the bytes, and the curves.
runs/skill/shipped: | runs/skill/depth/checkpoint
	$(TRAIN) merge runs/skill/depth $@ --dtype bf16
	$(TRAIN) curves $@/curves.png $(LOGS) --title "checkpoints/nano"
