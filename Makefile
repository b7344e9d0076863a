# An index of what can be done here; `make` prints it. Variables are given as NAME=value.

RUNTIME   := .venv-runtime
VENV      := .venv
CALIBRATION_VENV := .venv-calibration
PROFILE   ?= sim
RECIPE    ?= int4
TASK      ?= put the red cube in the bin
BUNDLE    ?= bundle
WHOLE     ?= whole
EPISODES  ?= sim
CHECKPOINT ?= checkpoints/nano
DEMO      := demo
STAGE     ?= depth
SMOKE     := smoke
OUT       ?= profiled
GATE      = $(if $(filter sim,$(EPISODES)),$(RUNTIME),$(VENV))
export TASK

.DEFAULT_GOAL := help
.PHONY: help setup setup-runtime setup-calibration demo test lint quantize verify bench profile train train-smoke provision flash rollback run scan doctor calibrate health stop clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## create the workstation environment (.venv, Python 3.12: training, tests, everything)
	@scripts/make_env.sh $(VENV) workstation 3.12

setup-runtime: ## create the robot runtime's environment (.venv-runtime: enough for the demo)
	@scripts/make_env.sh $(RUNTIME) demo 3.12 3.11 3.13 3.10

setup-calibration: ## create the environment of optimum's quantiser (.venv-calibration)
	@scripts/make_env.sh $(CALIBRATION_VENV) calibration 3.11 3.12

demo: setup-runtime ## build, verify and run the nano policy on a simulated arm: three tasks, or TASK; writes demo/
	@scripts/demo.sh $(RUNTIME) $(DEMO) $(if $(filter command environment,$(origin TASK)),"$$TASK")

test: setup ## run every test
	@$(VENV)/bin/python -m pytest -q

lint: setup ## check style and formatting
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

quantize: setup-runtime ## build BUNDLE from CHECKPOINT with RECIPE
	@$(RUNTIME)/bin/molmoact-quantize build $(CHECKPOINT) $(BUNDLE) --recipe $(RECIPE)

verify: setup-runtime ## check every digest and shape of BUNDLE
	@$(RUNTIME)/bin/molmoact-quantize verify $(BUNDLE)

gate: $(if $(filter sim,$(EPISODES)),setup-runtime,setup) | $(WHOLE) ## judge BUNDLE against full precision on EPISODES, sim or a dataset's folder (TRIALS=60 WORKERS=1)
	@$(GATE)/bin/molmoact-quantize gate "$(BUNDLE)" --against "$(WHOLE)" --episodes "$(EPISODES)" $(if $(TRIALS),--trials $(TRIALS)) $(if $(WORKERS),--workers $(WORKERS))

$(WHOLE): | setup-runtime
	@$(RUNTIME)/bin/molmoact-quantize build $(CHECKPOINT) $@ --recipe fp32

bench: setup-runtime ## time every stage of BUNDLE by what it grows with, beside what this machine can do
	@$(RUNTIME)/bin/molmoact-bench latency "$(BUNDLE)" --profile "$(PROFILE)"

profile: setup-runtime ## profile BUNDLE as PROFILE on this machine into OUT: stages, loop, heat, power (SECONDS=30 ACCEPT=unjudged PORT=/dev/... CALIBRATION=arm.json)
	@$(RUNTIME)/bin/molmoact-bench profile "$(BUNDLE)" --profile "$(PROFILE)" --out "$(OUT)" $(if $(SECONDS),--seconds $(SECONDS)) $(if $(ACCEPT),--accept-$(ACCEPT)) $(if $(PORT),--port "$(PORT)") $(if $(CALIBRATION),--calibration "$(CALIBRATION)")

train: setup ## train STAGE at nano size (general specialise rehearse discrete expert depth finetune) and what it needs
	@$(MAKE) --no-print-directory -f scripts/train_nano.mk runs/nano/$(STAGE)/checkpoint

train-smoke: setup ## every stage in short, from recorded demonstrations to a bundle that acts; writes smoke/
	@scripts/train_smoke.sh $(VENV) $(SMOKE)

provision: setup-runtime ## make HOST=user@jetson a device that takes releases signed by KEY=release_key.pub (once)
	@$(RUNTIME)/bin/molmoact-flash provision "$(HOST)" --key "$(KEY)" $(SSH_PORT:%=--port %)

flash: setup-runtime ## bring BUNDLE and PROFILE to HOST=user@jetson, or to all of FLEET=inventory.yaml (SIGN=release_key WHEEL=onnxruntime_gpu-....whl CHANGE=profile to replace)
	@$(RUNTIME)/bin/molmoact-flash $(if $(FLEET),fleet "$(FLEET)",push "$(HOST)" $(SSH_PORT:%=--port %)) --profile "$(PROFILE)" --bundle "$(BUNDLE)" $(if $(SIGN),--sign "$(SIGN)") $(if $(WHEEL),--wheel "$(WHEEL)") $(if $(CHANGE),--change-profile "$(CHANGE)")

rollback: setup-runtime ## bring HOST, or all of FLEET, back to the release before (TO=release)
	@$(RUNTIME)/bin/molmoact-flash $(if $(FLEET),fleet "$(FLEET)" --rollback,rollback "$(HOST)" $(SSH_PORT:%=--port %) $(TO:%=--to %))

run: setup-runtime ## run BUNDLE on the arm of PROFILE with TASK (a real arm: PORT=/dev/... CALIBRATION=arm.json; not passed by 'gate': ACCEPT=unjudged; on a flashed device: HOST=user@jetson)
	@$(if $(HOST),$(RUNTIME)/bin/molmoact-flash run "$(HOST)" $(SSH_PORT:%=--port %) --task "$$TASK" $(if $(PORT),--arm-port "$(PORT)") $(if $(CALIBRATION),--calibration "$(CALIBRATION)") $(if $(ACCEPT),--accept $(ACCEPT)),$(RUNTIME)/bin/molmoact-edge run "$(BUNDLE)" --profile "$(PROFILE)" --task "$$TASK" $(if $(ACCEPT),--accept-$(ACCEPT)) $(if $(PORT),--port "$(PORT)") $(if $(CALIBRATION),--calibration "$(CALIBRATION)"))

scan: setup-runtime ## list ports and the servos on them (PORT=/dev/... for one)
	@$(RUNTIME)/bin/molmoact-arm scan $(if $(PORT),--port $(PORT))

doctor: setup-runtime ## say what is wrong with an arm and how to mend it (PORT=/dev/... CALIBRATION=arm.json FIX=1)
	@$(RUNTIME)/bin/molmoact-arm doctor $(if $(PORT),--port $(PORT)) $(if $(CALIBRATION),--calibration $(CALIBRATION)) $(if $(FIX),--fix)

calibrate: setup-runtime ## find the range of every joint, guided (PORT=/dev/... CALIBRATION=arm.json)
	@$(RUNTIME)/bin/molmoact-arm calibrate $(if $(PORT),--port $(PORT)) $(if $(CALIBRATION),--calibration $(CALIBRATION))

health: setup-runtime ## show what the servos feel, live (PORT=/dev/... CALIBRATION=arm.json)
	@$(RUNTIME)/bin/molmoact-arm health $(if $(PORT),--port $(PORT)) $(if $(CALIBRATION),--calibration $(CALIBRATION))

stop: ## let an arm down at once, whoever drives it (PORT=/dev/...)
	@PATH="$(RUNTIME)/bin:$(VENV)/bin:$$PATH" molmoact-arm stop --port $(PORT)

clean: ## remove what was built, not the environments
	rm -rf $(DEMO) $(BUNDLE) $(WHOLE) $(SMOKE) .pytest_cache .ruff_cache
