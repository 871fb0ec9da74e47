"""Every knob of a run, documented once. Experiments change some of them."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of parameters, of the order of samples and of random fields
    # Folder of a run, or of `podgcm import-neuralgcm`, from whose weights and scales a
    # new run starts; empty: from random ones and the data's own scales.
    config.init_from = ""

    config.data = ConfigDict()
    config.data.store = ""  # finished store of `podgcm preprocess`
    config.data.grid = ""  # of a store that is not there yet, for `podgcm plan`
    config.data.train_times = ""  # START/STOP, inclusive
    config.data.eval_times = ""  # START/STOP; keep it away from train_times
    config.data.hours = 6  # between the frames of a window
    config.data.frames = 3  # in a window; the rollout is (frames - 1) * hours long

    # A curriculum: (first step, {knob: value}), ...; from that step on these knobs have
    # these values, such as ((2000, {"data.frames": 5}), (9000, {"data.frames": 9,
    # "train.batch": 8})). Of `data.frames`, `data.hours`, `train.batch`,
    # `optimizer.learning_rate`, `loss.*` and `remat.*` (train/stages.py).
    config.stages = ()

    config.model = ConfigDict()
    config.model.dycore_grid = "T31"  # see model.sphere.grids.parse_grid
    config.model.layers = 16  # equidistant sigma layers
    config.model.step_minutes = 60  # between evaluations of the physics
    config.model.substeps = 2  # dycore steps in that time
    # Exponential filters of every dycore step: (tau in minutes, order, cutoff).
    config.model.filters = ((120.0, 3, 0.0),)
    # What is conserved after every dycore step (model/dynamics/conservation.py): any of
    # "mean_log_surface_pressure", "dry_mass", "total_energy".
    config.model.fixers = ()
    # Of every tendency of the networks, once: as above.
    config.model.tendency_filters = ()
    # Of every encoded state: (field or "all", attenuation, order, cutoff).
    config.model.encoder_filters = ()
    config.model.reference_temperature = ()  # K, of each layer; empty: the core's own
    config.model.geopotential_interpolation = "log_sigma"  # or "sigma", as published
    config.model.as_published = False  # quirks of published models (model/spec.py)

    # Networks (model/spec.py, NetworkSpec): one tower each for encoder, physics and
    # decoder, and what they see beside the fields of their own column.
    config.model.width = 64  # of the towers
    config.model.blocks = 2
    config.model.hidden_layers = 1  # in each block
    config.model.encoder_gradients = False  # horizontal derivatives of all fields
    config.model.physics_gradients = False
    config.model.decoder_gradients = False
    config.model.decoder_fields = (
        *("u", "v", "vorticity", "divergence", "temperature", "specific_humidity"),
        *("specific_cloud_ice_water_content", "specific_cloud_liquid_water_content"),
        "log_surface_pressure",
    )
    # Channels of a convolution over levels, the last of which the physics sees; such as
    # (64, 64, 64, 64, 32). Empty: none.
    config.model.convolution = ()
    config.model.convolution_window = 5  # levels
    # Sea and ice: "raw" in all towers; or embedded for the physics, where land and ice
    # look at the "air" above them, or are "constant".
    config.model.surface = "raw"
    config.model.surface_features = 8  # of the embedding
    config.model.positional = 0  # trained features of each place and tower
    config.model.memory = False  # the physics sees the step before, from a 2nd encoder
    config.model.noise = ()  # random fields: (length in km, time in h) of each
    # Where a correction to the orography is trained: "encoder", "core", "decoder".
    config.model.learned_orography = ()
    config.model.orography_scale = 1e-5  # of it, as height in radii of the Earth
    config.model.dtype = "float32"  # or "bfloat16", of the networks' products

    # What the backward pass computes again, and does not keep (model/remat.py).
    config.remat = ConfigDict()
    config.remat.sample = "keep"  # a whole rollout; or "recompute"
    # A physics step; or "offload", from a state that waits on the host; or "keep".
    config.remat.step = "recompute"
    config.remat.substep = "keep"  # a dycore step; or "recompute"
    config.remat.tower = "products"  # blocks of networks; or "keep", "recompute"
    config.remat.decode = "recompute"  # decoding and losses of a frame; or "keep"

    # Number of devices along each axis; one may be -1, for all that the others leave.
    config.mesh = ConfigDict()
    config.mesh.data = 1
    config.mesh.ensemble = 1
    config.mesh.level = 1
    config.mesh.lat = 1
    # Where parameters, their average and the optimizer's state lie: (regular expression
    # of a path in parameters.txt, mesh axis or None of each dimension), first match;
    # such as ((r"kernel$", ("data",)),). What none matches is replicated.
    config.mesh.parameters = ()

    # Weights of the loss's terms, on decoded fields on pressure levels (`_data`) and on
    # the model's own states (`_model`); of weight 0: not computed (train/losses).
    config.loss = ConfigDict()
    config.loss.mse_data = 20.0  # squared errors
    config.loss.mse_model = 1.0
    config.loss.spectrum_data = 0.1  # squared errors of the spectrum's amplitudes
    config.loss.spectrum_model = 0.1
    config.loss.bias_data = 2.0  # squared bias of coefficients' amplitudes, of a batch
    config.loss.bias_model = 0.0
    # Scores of two members, which need train.members=2: at grid points, and of
    # spectral coefficients.
    config.loss.crps_grid_data = 0.0
    config.loss.crps_data = 0.0
    config.loss.crps_model = 0.0
    # Errors are measured in changes within 24 h, times these amplitudes; others 1.
    config.loss.amplitudes = ConfigDict()
    config.loss.amplitudes.geopotential = 2.0
    config.loss.amplitudes.specific_humidity = 0.66
    config.loss.amplitudes.specific_cloud_ice_water_content = 0.05
    config.loss.amplitudes.specific_cloud_liquid_water_content = 0.05
    config.loss.log_surface_pressure = 5.0  # the same of ln(ps), in the model's space
    config.loss.least_level = 30.0  # hPa; levels above do not count
    config.loss.lead_hours = 24.0  # squares after t hours count 1 / (1 + t / this)
    config.loss.spectrum_lead_hours = 40.0  # of spectra: 1 / (1 + (t / this)^4)
    # Largest total wavenumbers of spectra, and of members' coefficients, that are
    # compared, as parts of the truncation.
    config.loss.spectrum_cutoff = 0.667
    config.loss.crps_cutoff = 0.667
    # (t in hours, wavenumber), ...: errors of coefficients at t do not count beyond.
    config.loss.low_pass = ()

    config.optimizer = ConfigDict()  # Adam
    config.optimizer.learning_rate = 1e-3  # at the end of the warm-up, which is linear
    config.optimizer.warmup_steps = 20
    config.optimizer.decay = "cosine"  # to 0; or "halving"; or "none"
    config.optimizer.decay_start = 0  # until then the rate is constant
    # When the cosine ends; or how many steps each halving takes.
    config.optimizer.decay_steps = 1000
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.eps = 1e-6
    config.optimizer.clip = 1.0  # largest norm of the gradient
    config.optimizer.ema_decay = 0.98
    # Learning rates of modules, in parts of the one above: (regular expression of a
    # path in parameters.txt, factor), first match; 0 freezes. Such as
    # (("^encoder/", 0.1), ("^positional/", 0.0)). What none matches has the factor 1.
    config.optimizer.rates = ()

    config.train = ConfigDict()
    config.train.steps = 1000
    config.train.batch = 4  # samples in a step, whatever the mesh
    config.train.members = 1  # of every sample, each with its own noise
    # Steps without a finite loss and update change nothing, nor do those whose gradient
    # has more than `spike` times its usual norm (0: whatever it has). After more than
    # so many in a row the run goes back: by `lookback` steps or more, to a checkpoint,
    # and to another order of the data; by twice as many if that did not help, and so
    # on, at most so many times.
    config.train.skips = 10
    config.train.spike = 0.0
    config.train.lookback = 200
    config.train.rollbacks = 5
    config.train.log_every = 1  # steps
    config.train.checkpoint_every = 100  # steps
    config.train.checkpoint_minutes = 15.0  # after so long too; 0: by steps alone
    config.train.keep_checkpoints = 3  # the newest
    config.train.keep_every = 0  # and those of multiples of so many steps; 0: no others
    config.train.eval_every = 100
    config.train.eval_batches = 2
    config.train.eval_hours = 0  # of these rollouts; 0: as the longest of all stages
    # Of these leads (hours) and levels (hPa) errors are told; of all, in the folder
    # evaluations/.
    config.train.eval_leads = (6, 24)
    config.train.eval_levels = (850.0, 500.0, 250.0)

    config.run = ConfigDict()  # how it is operated; may change when a run goes on
    config.run.join_minutes = (
        15.0  # for all processes to join, or to answer one another
    )
    config.run.heartbeat_seconds = 100.0  # a process silent for so long is dead
    config.run.first_step_minutes = 60.0  # watchdog: until the first step is done
    config.run.step_minutes = 15.0  # watchdog: for a step or a batch of evaluation
    config.run.save_minutes = 20.0  # then a save has failed; watchdog: after twice that
    config.run.failed_saves = 2  # in a row that are survived
    config.run.profile_step = 0  # an xprof profile begins with this step; 0: none
    config.run.profile_steps = 3  # in a profile, this or one that SIGUSR2 asks for
    return config
