"""What `semiseg --help` and `semiseg <command> --help` say."""

USAGE = """semiseg: semantic segmentation from whatever labels you can afford

  semiseg train     trains what a config describes, or goes on where it stopped
  semiseg evaluate  metrics of a trained model, at the original resolution
  semiseg predict   label maps, colour pictures and overlays for files, folders and globs
  semiseg export    a trained model as one file, StableHLO or ONNX, that runs without this package
  semiseg report    one page about runs: scores, curves, mistakes, pictures
  semiseg import-labels     a dataset folder from the files of an annotation tool
  semiseg export-labels     predictions as files of an annotation tool, so that people correct instead of draw
  semiseg prepare   checks a folder of images and labels and builds the dataset
  semiseg inspect   draws one training batch after augmentation
  semiseg summary   parameters, multiply-adds and memory of a config's network, before it is trained
  semiseg config    what a run of a config will do: method, stages, networks, terms, batch
  semiseg preflight whether it compiles for a TPU slice or GPUs that are not there, and fits; no run, no accelerator
  semiseg list configs      what ships with the package; or settings, fields, methods, terms, models, datasets, splits
  semiseg convert-weights   weights of PyTorch models, or of a run, as a file that needs neither

`semiseg <command> --help` explains a command, with --config=NAME a config too; `semiseg --version`. A first run:

  semiseg train --config=quickstart --workdir=runs/quickstart
"""

HELP = {
    "train": """Trains what a config describes; the same command goes on where the workdir's last checkpoint stands.

  semiseg train --config=supervised:path=DIR --config.steps=2000 --workdir=runs/mine

Any field of the config can be overridden. Dicts such as the quota are replaced as a whole:
  --config.data.quota='{"dense": 2, "scribble": 6}'""",
    "evaluate": """Metrics of a trained model at the original resolution of every image, as a table and as JSON.

  semiseg evaluate --workdir=runs/mine
  semiseg evaluate --workdir=runs/mine --split=test --config.eval.flip=True --config.eval.scales='(0.75,1.0,1.25)'
  semiseg evaluate --workdir=runs/mine --config.eval.mode=slide --config.eval.window='(256,256)'
  semiseg evaluate --workdir=runs/mine --post=mrf --config.eval.post.beta=2""",
    "predict": """Writes a label map, a colour picture and an overlay for every image, and predictions.json.

  semiseg predict --workdir=runs/mine photos/ 'more/*.jpg' one.png --output=predictions
  semiseg predict --workdir=runs/mine photos/ --write=index,probabilities
  semiseg predict --model=mine.semiseg photos/                 # a file of `semiseg export`, without the run

Without any file, the evaluation split of the training data is predicted. A --model holds its own settings:
only --output, --limit, --write and --verbosity go with it.""",
    "export": """Writes a trained model as one file, with preprocessing, resizing and the choice of classes inside and
a model card beside them. The file is read back and compared with the run.

  semiseg export --workdir=runs/mine --output=mine.semiseg --licence=CC-BY-4.0
  semiseg export --workdir=runs/mine --output=mine.onnx --format=onnx --size=480x640 --python=onnx_env/bin/python

stablehlo: jax alone runs it, on CPU, GPU and TPU, for batches and images of any size; `semiseg predict --model` too.
onnx: ONNX Runtime and others run it, for batches of any size and images of one size. jax2onnx converts, which needs
other versions of packages; so make an environment for it: pip install jax2onnx onnxruntime 'jax<0.11'.""",
    "report": """Writes one page about trained runs, to look at in a browser: scores, learning curves, classes,
calibration, the worst and the most uncertain images. It needs nothing beside it, so it can be sent around.

  semiseg report runs/mine
  semiseg report runs/seed0 runs/seed1 runs/other --output=report.html

Runs that differ in their seed alone become mean and spread.""",
    "prepare": """Checks a dataset folder, reports every problem, and builds the records that training reads.

  semiseg prepare DIR
  semiseg prepare --config=supervised:path=DIR,labels=scribble
  semiseg prepare --config=supervised:dataset=voc,path=DIR     # other layouts: `semiseg list datasets`
  semiseg prepare DIR --clean --picture=labels.png

It prints images and pixels of each class by kind of label. With --clean, what earlier states of the folder left behind
is removed; --picture draws images and labels.""",
    "import-labels": """Writes a dataset folder from images and the files of an annotation tool, and says what it holds.

  semiseg import-labels csv tags.csv DIR --images=photos
  semiseg import-labels cvat job.zip DIR
  semiseg import-labels coco roboflow DIR --drop=blurred
  semiseg import-labels label_studio export.json DIR --images=photos
  semiseg import-labels masks labels DIR --images=photos --colors=label_colors.txt --names='*_mask'

Formats: coco (instances or keypoints, a .json, or a folder of them, whose names tell train, val and test), csv (tags),
cvat ("CVAT for images 1.1", .xml or .zip), label_studio (JSON or JSON-MIN), labelme (a folder of .json), masks (a
folder of class indices, or of colours with --colors), voc (a folder of .xml with boxes). Images below --images are
copied, or linked with --link; folders become part of the ids. --drop leaves out labels that are remarks.""",
    "export-labels": """Writes predictions as outlines for an annotation tool, the most uncertain images first.

  semiseg export-labels coco photos/ --workdir=runs/mine --output=to_correct
  semiseg export-labels label_studio photos/ --workdir=runs/mine --tolerance=2 --min-area=200

Formats: coco, labelme, label_studio. Without any file, the evaluation split of the training data is exported. What
people corrected comes back by `semiseg import-labels`.""",
    "inspect": """Draws one training batch after augmentation: image, labels, boxes, valid pixels, kind and tags.

  semiseg inspect DIR
  semiseg inspect --config=quickstart --output=batch.png

Of a dataset folder, rows of every kind of label that it has are drawn.""",
    "summary": """Parameters, multiply-adds, sizes and memory of a config's network, stage by stage.

  semiseg summary --config=supervised:path=DIR
  semiseg summary --config=supervised --config.model='{"name": "deeplab_v2"}' --classes=21""",
    "list": """Lists what there is, a line each: configs that ship with the package; what their settings are; all fields
of a config with defaults and meanings; methods, terms, models and datasets, those of installed packages included;
and published splits: which images papers take as labelled, and which classes as those that have masks.

  semiseg list configs
  semiseg list settings
  semiseg list fields
  semiseg list methods""",
    "config": """What a run of a config will do: method, stages, networks, terms, schedule, batch on the devices at
hand, and the fields that differ from the defaults. --all prints every field as JSON.

  semiseg config --config=adversarial:path=DIR,labelled=50
  semiseg config --config=quickstart --config.method=supervised --all""",
    "preflight": """Compiles the step of every stage for hardware that is not there: does it compile, what does a
device hold, what is sent, and how may it scale? Nothing is trained, and no data is needed.

  semiseg preflight --config=gated_crf:path=DIR --topology=v5e:2x4
  semiseg preflight --config=supervised:path=DIR --topology=h200:8 --classes=21 --json=preflight.json

Topologies: v4, v5p (AxBxC), v5e, v6e (ROWSxCOLUMNS), t4, l4, a100, h100, h200, cpu (a number). TPUs need
semiseg-jax[tpu-preflight], GPUs semiseg-jax[gpu-preflight]. Where a stage does not fit its device, or a batch does not
divide, what would is compiled too, unless --propose=False. The exit code is 1 where a stage does not run as it is.""",
    "convert-weights": """Writes pretrained weights as .npz under this package's names, for --config.pretrained.path.

  semiseg convert-weights resnet50.safetensors resnet50.npz
  semiseg convert-weights deeplab_v2.pth deeplab_v2.npz        # needs torch, once
  semiseg convert-weights runs/mine mine.npz                   # the best checkpoint of a run""",
}
